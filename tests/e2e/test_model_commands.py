"""``tether eval``, ``report``, ``inspect`` and ``export`` as a user types them."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.cli import main
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


def call(capsys, *arguments):
    with warnings.catch_warnings(), pytest.raises(SystemExit) as leaving:  # main replaces showwarning
        main(list(map(str, arguments)))
    output = capsys.readouterr()
    return leaving.value.code or 0, output.out, output.err


def test_eval_prints_a_table_and_writes_json(place, capsys):
    code, out, _ = call(capsys, "eval", place / "run", place / "pairs.csv", "--json", place / "out.json")
    assert code == 0
    assert "text to image R@10" in out
    assert "zero-shot top-1" in out
    result = json.loads((place / "out.json").read_text())
    assert result["images"] == result["texts"] == 12
    assert result["classes"] == 4
    assert result["text_to_image_r10_low"] <= result["text_to_image_r10"] <= result["text_to_image_r10_high"]


def test_eval_takes_only_what_is_asked(place, capsys):
    code, out, _ = call(capsys, "eval", place / "run", place / "pairs.csv", "--measure", "geometry", "--bootstrap", 0)
    assert code == 0
    assert "alignment" in out
    assert "R@10" not in out
    assert "interval" not in out


def test_report_writes_one_page(place, capsys):
    code, out, _ = call(capsys, "report", place / "run")
    assert code == 0
    assert out.strip() == str(place / "run" / "report.html")
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "a red square, number 0" in page
    assert "Zero-shot by label" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("eval {place}/none {place}/pairs.csv", "none"),
        ("eval {place}/run {place}/none.csv", "none.csv"),
        ("eval {place}/run {place}/pairs.csv --label colour", "colour"),
        ("eval {place}/run {place}/pairs.csv --measure speed", "'retrieval'"),
        ("eval {place}/run {place}/pairs.csv --template no-slot", "no-slot"),
        ("report {place}", "not a run"),
        ("inspect {place}/none --pairs scenes", "none"),
        ("inspect {place}/run --pairs no-such-set", "no-such-set"),
        ("inspect {place}/run --pairs scenes:rows=60 --probe colour", "known: about"),
        ("inspect {place}/run --pairs scenes:rows=60 --label species", "species"),
        ("inspect {place}/run", "--pairs"),
        ("export {place}/nothing {place}/out", "nothing"),
        ("export {place}/run {place}/out --format onnx", "onnx"),
    ],
)
def test_mistakes_are_one_message(place, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    code, _, err = call(capsys, *arguments.format(place=place).split())
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (place / "out").exists()


PAIRS = "scenes:split=test,rows=60"


def test_a_report_is_written_and_summed_up(place, capsys):
    out = place / "report"
    code, said, _ = call(capsys, "inspect", place / "run", "--pairs", PAIRS, "--out", out)
    assert code == 0
    assert str(out / "inspect.html") in said.replace("\n", "")
    numbers = json.loads((out / "inspect.json").read_text())
    assert "towers" in numbers["alarms"]
    assert numbers["pairs"] == PAIRS
    page = (out / "inspect.html").read_text(encoding="utf-8")
    assert f"tether inspect {place / 'run'} --pairs {PAIRS}" in page


def test_check_ends_with_one_on_an_alarm(place, capsys):
    arguments = ("inspect", place / "run", "--pairs", PAIRS, "--out", place / "report", "--check")
    code, _, err = call(capsys, *arguments, "--probe", "towers")
    assert code == 1
    assert "alarms: towers" in err
    code, said, _ = call(capsys, *arguments, "--probe", "dimensions", "--probe", "duplicates")
    assert code == 0
    assert "dimensions" in said
    assert "towers" not in said


def test_the_default_folder_is_named_after_the_model(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    code, _, _ = call(capsys, "inspect", "run", "--pairs", PAIRS, "--probe", "about")
    assert code == 0
    assert (place / "inspect-run" / "inspect.html").is_file()


@pytest.mark.parametrize("form", ["open_clip", "transformers", "tether"])
def test_export_gives_a_folder_with_the_same_embeddings(place, tmp_path, capsys, form):
    code, out, err = call(capsys, "export", place / "run", tmp_path / "out", "--format", form)
    assert code == 0, err
    assert "open it with" in out
    own, theirs = tether.load(place / "run"), tether.load(tmp_path / "out")
    texts = own.tokenizer(["a red apple", "two dogs"])
    with torch.inference_mode():
        difference = (own.encode_text(texts).unit - theirs.encode_text(texts).unit).abs().max()
    assert difference < 1e-5


def test_what_is_there_is_never_overwritten(place, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = call(capsys, "export", place / "run", tmp_path)
    assert code == 2
    assert "exists and is not an empty folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
