"""``tether eval`` and ``tether report`` as a user types them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tether.models import create
from tether.models.save import save

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "grey": (128, 128, 128)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "label"])
        for name, colour in COLOURS.items():
            for number in range(3):
                path = folder / f"{name}{number}.png"
                Image.fromarray(np.full((40, 32, 3), colour, dtype=np.uint8)).save(path)
                table.writerow([path.name, f"a {name} square, number {number}", name])
    run = folder / "run"
    run.mkdir()
    save(create("tiny", seed=0).eval(), run)
    source = str(folder / "pairs.csv")
    (run / "config.yaml").write_text(json.dumps({"batch_size": 4, "evaluate": {"source": source}}))
    return folder


def test_eval_prints_a_table_and_writes_json(place, call):
    out = call("eval", place / "run", place / "pairs.csv", "--json", place / "out.json").out
    assert "text to image R@10" in out
    assert "zero-shot top-1" in out
    result = json.loads((place / "out.json").read_text())
    assert result["images"] == result["texts"] == 12
    assert result["classes"] == 4
    assert result["text_to_image_r10_low"] <= result["text_to_image_r10"] <= result["text_to_image_r10_high"]


def test_eval_takes_only_what_is_asked(place, call):
    out = call("eval", place / "run", place / "pairs.csv", "--measure", "geometry", "--bootstrap", 0).out
    assert "alignment" in out
    assert "R@10" not in out
    assert "interval" not in out


def test_eval_says_what_is_wrong(place, call):
    for arguments, message in (
        (("eval", place / "none", place / "pairs.csv"), "none"),
        (("eval", place / "run", place / "none.csv"), "none.csv"),
        (("eval", place / "run", place / "pairs.csv", "--label", "colour"), "colour"),
        (("eval", place / "run", place / "pairs.csv", "--measure", "speed"), "'retrieval'"),
        (("eval", place / "run", place / "pairs.csv", "--template", "no slot"), "no slot"),
    ):
        assert message in call(*arguments, code=2).err


def test_report_writes_one_page(place, call):
    out = call("report", place / "run").out
    assert out.strip() == str(place / "run" / "report.html")
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "a red square, number 0" in page
    assert "Zero-shot by label" in page


def test_report_of_no_run(place, call):
    assert "not a run" in call("report", place, code=2).err
