"""tether classify by parts of whole images, and by descriptions, on the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tether
from tether.methods.gc_clip.guided_crops import GuidedCrops
from tether.models import create
from tether.models.save import save

CLASSES = ("red", "green", "blue")
SAYS = {"red": ["a red image", "it is red"], "green": ["a green image"], "blue": ["the blue sea", "sky", "blue"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    save(create("tiny", seed=1), folder / "model")
    draws = np.random.default_rng(0)
    for number in range(6):
        sub = folder / "photos" / CLASSES[number % 3]
        sub.mkdir(parents=True, exist_ok=True)
        size = (40 + 30 * number, 90, 3)
        Image.fromarray(draws.integers(0, 256, size, dtype=np.uint8)).save(sub / f"{number}.png")
    (folder / "photos" / "red" / "broken.png").write_bytes(b"no image")
    (folder / "says.json").write_text(json.dumps(SAYS))
    (folder / "twice.json").write_text('{"red": ["blood"], "green": ["grass"], "red": ["wine"]}')
    (folder / "twice.yaml").write_text("red: [blood]\ngreen: [grass]\nred: [wine]\n")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("views", "column"),
    [
        ("guided_crops:n=2,k=2", "cosine"),
        ("guided_crops:propose=random,augment=random,n=2,pad=square", "cosine"),
        ("attention_views:n=3,ratio=[0.5,0.8]", "score"),
    ],
)
def test_with(place: Path, call: Callable[..., Any], tmp_path: Path, views: str, column: str) -> None:
    out = tmp_path / "named.csv"
    common = ("classify", place / "photos", "--model", place / "model", "--descriptions", place / "says.json")
    said = call(*common, "--with", views, "--batch-size", 5, "--out", out)
    named = rows_of(out)
    assert len(named) == 6
    assert {row["label"] for row in named} <= set(CLASSES)
    assert f"{column}_1" in named[0]
    assert "the method's own, not calibrated" in said.err
    assert "1 bad row was skipped" in said.err
    call(*common, "--with", views, "--batch-size", 64, "--workers", 0, "--out", tmp_path / "again.csv")
    for one, other in zip(named, rows_of(tmp_path / "again.csv"), strict=True):
        assert float(one[f"{column}_1"]) == pytest.approx(float(other[f"{column}_1"]), abs=2e-5)


def test_calibrated_and_its_ceiling(place: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "named.csv"
    common = ("classify", place / "photos", "--model", place / "model", "--classes", ",".join(CLASSES))
    said = call(*common, "--with", "guided_crops:n=1,k=3", "--calibrate", place / "photos", "--out", out)
    assert "calibrated on 6 images" in said.err
    assert "candidates: 100.0% of the labelled images have their class among them" in said.err


def test_descriptions_alone(place: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "named.csv"
    common = ("classify", place / "photos", "--model", place / "model", "--out", out)
    call(*common, "--descriptions", place / "says.json")
    found = tether.classify(str(place / "photos"), model=place / "model", descriptions=SAYS)
    assert [row["label"] for row in rows_of(out)] == [one.label for one in found.labels]


def test_python_takes_a_head(place: Path) -> None:
    model = tether.load(place / "model")
    head = GuidedCrops(propose="center", n=2, descriptions=SAYS)
    found = tether.classify(str(place / "photos"), list(CLASSES), model=model, head=head)
    same = {"name": "guided_crops", "propose": "center", "n": 2}
    again = tether.classify(str(place / "photos"), model=model, head=same, descriptions=SAYS)
    assert [one.label for one in found.labels] == [one.label for one in again.labels]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--classes", "a,b", "--with", "guided_crop"], "--with: unknown part 'guided_crop'"),
        (["--classes", "a,b", "--with", "guided_crops:zoom=2"], "--with (guided_crops): unknown key 'zoom'"),
        (["--classes", "a,b", "--with", "guided_crops:n=0"], "n: expected"),
        (["--classes", "a,b", "--with", "guided_crops:n"], "expected key=value, got 'n'"),
        (["--classes", "a,b", "--with", "attention_views:layer=9"], "layer: expected -2 to 1, got 9"),
        (["--classes", "a,b", "--with", "guided_crops:propose=owl"], "propose: 'owl' is no folder of a detector"),
        (["--classes", "a,b", "--with", "guided_crops", "--none-of-these", "0.2"], "--none-of-these: is fitted"),
        (["--with", "guided_crops"], "--classes: expected names"),
        (["--with", "guided_crops", "--head", "h"], "expected no --head"),
        (["--classes", "red,cow", "--descriptions", "says.json"], "says.json: class 'cow' has none"),
        (["--classes", "red,green", "--descriptions", "says.json"], "says.json: 'blue' is none of the 2 classes"),
        (["--descriptions", "none.json"], "none.json"),
        (["--descriptions", "twice.json"], "twice.json: not valid JSON: 'red' comes twice"),
        (["--descriptions", "twice.yaml"], "twice.yaml: not valid YAML: line 1: 'red' comes twice"),
        (["--descriptions", "says.json", "--templates", "a {}"], "give one of the two"),
    ],
)
def test_mistakes(
    place: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], said: str
) -> None:
    monkeypatch.chdir(place)
    assert said in " ".join(
        call("classify", "photos", "--model", "model", "--out", "c.csv", *arguments, code=2).err.split()
    )
    assert not Path("c.csv").exists()
