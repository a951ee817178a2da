"""What a person types in good faith on the first day, and what she is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tether
from tether.models.presets import create

SETTINGS = ["size=tiny", "steps=2", "batch_size=2", "precision=fp32", "threads=1"]
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and twelve photos with captions, of which ``cut`` has three that end too early."""
    folder = tmp_path_factory.mktemp("stage")
    tether.save(create("tiny"), folder / "model")
    (folder / "photos").mkdir()
    lines = ["image,caption"]
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.jpg")
        lines.append(f"{number}.jpg,a colourful square with the number {number} in a row of squares")
    (folder / "photos" / "captions.csv").write_text("\n".join(lines) + "\n")
    shutil.copytree(folder / "photos", folder / "cut")
    for number in range(3):
        path = folder / "cut" / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    shutil.copytree(folder / "photos", folder / "bare")
    (folder / "bare" / "captions.csv").unlink()
    return folder


@pytest.fixture
def place(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(stage, tmp_path / "stage")
    monkeypatch.chdir(tmp_path / "stage")
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "stage"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["train", "--data", "photos"], "DATA stands without one: tether train DATA OVERRIDES"),
        (["train", "photos", "--epochs", "3"], "tether train ... epochs=VALUE"),
        (["train", "photos", "--lr", "1"], "tether train ... optimizer.lr=VALUE"),
        (["train", "photos", "--model", "starter"], "did you mean --from?"),
        (["train", "photos", "--output", "x"], "did you mean --out?"),
        (["classify", "photos", "--overwrite"], "did you mean --existing replace?"),
        (["classify", "photos", "--labels", "a,b"], "did you mean --classes?"),
        (["search", "--query", "x"], "QUERIES stands without one: tether search STORE QUERIES"),
        (["eval", "model", "photos", "--gpu"], "did you mean --device?"),
        (["embed", "photos", "--debug"], "before the verb: tether --traceback embed ..."),
        (["train", "photos", "stepz=10"], "unknown key 'stepz'; did you mean 'steps'?"),
        (["train", "photos", "epoch=1"], "did you mean 'epochs'?"),
        (["train", "photos", "batch=8"], "did you mean 'batch_size'?"),
        (["train", "photos", "learning_rate=1"], "did you mean 'optimizer.lr'?"),
        (["train", "nosuch", "optimizer.learning_rate=1"], "unknown key 'learning_rate'; did you mean 'lr'?"),
        (["train", "nosuch", "--recipe", "demo", "clipper=zclp"], "did you mean 'zclip'?"),
        (["train", "photos", "evaluate.limit=5", "steps=9"], "settings: steps: a fit takes no steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_natural_mistake_is_answered_with_what_to_type(
    place: Path, call: Call, arguments: list[str], answer: str
) -> None:
    assert answer in call(*arguments, code=2).err
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "model", "photos", "--bootstrap", "0"],
        ["search", "photos", "a square", "--model", "model"],
        ["classify", "photos", "--model", "model", "--classes", "a,b", "--out", "c.csv", "--existing", "replace"],
        ["embed", "photos", "--model", "model", "--out", "e.parquet"],
        ["inspect", "model", "--pairs", "photos", "--probe", "gap", "--out", "health"],
        ["methods", "--needs", "pairs"],
    ],
    ids=lambda value: value[0],
)
def test_json_goes_to_the_screen_alone_or_to_a_file(place: Path, call: Call, arguments: list[str]) -> None:
    def read(text: str) -> list[Any]:
        return list(map(json.loads, text.splitlines())) if arguments[0] == "search" else [json.loads(text)]

    def lasting(values: list[Any]) -> list[Any]:
        return [{**value, "seconds": 0, "new": 0} if isinstance(value, dict) else value for value in values]

    printed = lasting(read(call(*arguments, "--json").out))
    assert lasting(read(call(*arguments, "--json", "-").out)) == printed
    call(*arguments, "--json", "numbers.json")
    assert lasting(read((place / "numbers.json").read_text())) == printed
    without = [one for one in arguments if one not in ("--existing", "replace")]
    before = (place / "numbers.json").stat().st_mtime_ns
    if arguments[0] != "classify":
        assert "numbers.json is there already" in call(*without, "--json", "numbers.json", code=2).err
        assert (place / "numbers.json").stat().st_mtime_ns == before
    call(*without, *(["--existing", "replace"]), "--json", "numbers.json")
    assert (place / "numbers.json").stat().st_mtime_ns > before


def test_no_output_is_replaced_unasked(place: Path, call: Call) -> None:
    classify = ["classify", "photos", "--model", "model", "--classes", "a,b", "--out", "c.csv"]
    search = ["search", "photos", "a square", "--model", "model", "--html", "found.html"]
    for command, name in ((classify, "c.csv"), (search, "found.html")):
        (place / name).write_text("mine")
        said = call(*command, code=2).err
        assert f"{name} is there already; give another name, or --existing replace" in said
        assert (place / name).read_text() == "mine"
        call(*command, "--existing", "replace")
        assert (place / name).read_text() != "mine"


def test_a_folder_with_a_slash_is_the_same_source(place: Path, call: Call) -> None:
    command = ["--model", "model", "--out", "e.parquet"]
    assert "12 of them new" in call("embed", "photos/", *command).out
    for same in ("photos", "./photos", "photos//"):
        assert "0 of them new" in call("embed", same, *command).out


def test_a_run_that_failed_once_can_be_tried_again(place: Path, call: Call) -> None:
    for _ in range(2):
        assert "no caption" in call("train", "data=bare", *SETTINGS, "--out", "run", code=2).err
    (place / "run").mkdir(exist_ok=True)
    (place / "run" / "bad_rows.jsonl").write_text('{"key": "0.jpg", "error": "no caption"}\n')
    assert "2 steps" in call("train", "data=photos", *SETTINGS, "--out", "run").out


def test_a_finished_run_says_so_and_how_to_train_on(place: Path, call: Call) -> None:
    call("train", "photos", "--recipe", "demo", "model={}", *SETTINGS, "--out", "run")
    assert "this run was finished before, and nothing was done" in call("train", "--resume", "--out", "run").out
    said = call("train", "--resume", "--out", "run", "steps=4", code=2).err
    typed = said.strip().splitlines()[-1].split()
    assert typed[:2] == ["tether", "train"]
    assert "4 steps" in call(*typed[1:-1], "steps=4").out


def test_curation_drops_images_that_cannot_be_decoded_and_says_when_it_was_finished(place: Path, call: Call) -> None:
    recipe = place / "small.yaml"
    recipe.write_text("steps: [{name: image_size}, decodes]")
    first = call("curate", "cut", "--recipe", recipe, "--out", "kept", "--workers", 1).out
    assert "image_size: 12 in, 0 refused" in first
    assert "decodes: 12 in, 3 refused" in first
    assert "finished" not in first
    again = call("curate", "cut", "--recipe", recipe, "--out", "kept", "--workers", 1).out
    assert "kept: this curation was finished before, and nothing was done" in again


def test_an_error_names_an_image_once(place: Path, call: Call) -> None:
    said = call("embed", "cut", "--model", "model", "--out", "e.parquet", "--strict", code=2).err
    assert said.startswith("tether: cut: bad row '0.jpg': broken JPEG of")
    assert said.count("0.jpg") == 1
    assert ".cpp" not in said
