"""``tether classify --regions``: boxes and masks beside images, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tether.models import create
from tether.models.save import save
from tether.models.towers.vision.alpha_stem import add_alpha_


def photos(folder: Path) -> Path:
    """Two images of 60 x 40, red on the left and green on the right."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30, 0], pixels[:, 30:, 1] = 220, 200
    (folder / "photos").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(pixels).save(folder / "photos" / name)
    return folder / "photos"


def test_regions_by_file(tmp_path: Path, call: Callable[..., Any]) -> None:
    source, model = photos(tmp_path), create("tiny", seed=1).eval()
    add_alpha_(model)
    save(model, tmp_path / "model")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("key,x0,y0,x1,y1,name\na.png,0,0,30,40,left\na.png,30,0,60,40,right\nb.jpg,0,0,60,40,\n")
    out = tmp_path / "named.csv"
    given = ["classify", str(source), "--model", str(tmp_path / "model"), "--classes", "red,green"]
    given += ["--regions", str(boxes), "--out", str(out)]
    said = call(*given, "--region-as", "alpha,crop,attention")
    assert "alpha and crop give" in said.err
    assert "boxes: taken to be in pixels of the image" in said.err
    with out.open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 9
    assert [one["region_as"] for one in found[:6]] == ["alpha"] * 2 + ["crop"] * 2 + ["attention"] * 2
    assert (found[0]["key"], found[0]["region"], found[0]["x1"], found[6]["region"]) == ("a.png", "left", "30", "1")
    assert {one["label"] for one in found} <= {"red", "green"}
    inside = np.zeros((40, 60), np.uint8)
    inside[:20] = 255
    (tmp_path / "masks").mkdir()
    for name in ("a.left", "b"):
        Image.fromarray(inside).save(tmp_path / "masks" / f"{name}.png")
    given = given[:-4]
    masked = ["--regions", str(tmp_path / "masks"), "--out", str(tmp_path / "masked.csv")]
    call(*given, *masked)
    assert len((tmp_path / "masked.csv").read_text().splitlines()) == 3
    masked[3] = str(tmp_path / "other.csv")
    says = tmp_path / "says.json"
    says.write_text('{"red": ["a red wall", "blood"], "blue": ["the sky"]}')
    call(*given[:4], *masked, "--descriptions", says, "--existing", "replace")
    assert {row["class_1"] for row in csv.DictReader((tmp_path / "other.csv").open())} <= {"red", "blue"}
    (tmp_path / "other.csv").unlink()
    call(*given[:4], *masked, code=2)
    for wrong, words in (
        ([*masked, "--calibrate", str(source)], "does not go with --regions"),
        ([*masked, "--with", "guided_crops"], "--with: does not go with --regions"),
        ([*masked, "--descriptions", str(says)], "class 'green' has none"),
        ([*masked, "--region-as", "shout"], "expected different ones"),
        ([*masked, "--region-unit", "inch"], "expected pixel or share"),
        (["--region-as", "crop", "--out", masked[3]], "goes with --regions"),
    ):
        said = call(*given, *wrong, code=2)
        assert words in said.err
    assert not (tmp_path / "other.csv").exists()
