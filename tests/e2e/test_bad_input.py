"""What a person trips over on the command line: one clear message, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tether
from tether.models.presets import create

TRAIN = ["train", "data=photos", "size=tiny", "steps=2", "batch_size=2", "precision=fp32", "threads=1"]
EMBED = ["embed", "photos", "--out", "e.parquet"]
CLASSIFY = ["classify", "photos", "--model", "model", "--out", "c.csv"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A model, a run with a checkpoint, and two good images beside five that are none."""
    folder = tmp_path_factory.mktemp("stage")
    tether.save(create("tiny"), folder / "model")
    (folder / "photos").mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (40, 40), name).save(folder / "photos" / f"{name}.png")
        (folder / "photos" / f"{name}.txt").write_text(name)
    shutil.copytree(folder / "photos", folder / "mixed")
    whole = (folder / "photos" / "red.png").read_bytes()
    (folder / "mixed" / "cut.png").write_bytes(whole[:40])
    (folder / "mixed" / "nothing.png").write_bytes(b"")
    (folder / "mixed" / "words.jpg").write_text("no image")
    (folder / "mixed" / "good.jpg").write_bytes(whole)
    (folder / "mixed" / "good.txt").write_text("a PNG that is called .jpg")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def place(stage: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(stage, tmp_path / "stage")
    monkeypatch.chdir(tmp_path / "stage")
    return tmp_path / "stage"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*EMBED, "--model", "nosuch"], "tether: nosuch: no such model; expected a folder"),
        (
            [*EMBED, "--model", "tiny"],
            "tether: tiny: a size has no weights of its own; ask for random weights (--random",
        ),
        ([*EMBED, "--model", "model", "--device", "nosuch"], "tether: device 'nosuch': not here; expected cpu, cuda"),
        (["embed", "empty", "--model", "model", "--out", "e.parquet"], "tether: empty: empty, no files there"),
        (
            ["embed", "nosuch", "--model", "model", "--out", "e.parquet"],
            "'nosuch': no such file or folder, and no data set",
        ),
        (["embed", "no.csv", "--model", "model", "--out", "e.parquet"], "tether: no.csv: no such file or folder"),
        (
            ["embed", "mixed", "--model", "model", "--out", "e.parquet", "--strict"],
            "tether: mixed: bad row 'cut.png': not an image",
        ),
        (["eval", "model", "mixed", "--strict"], "tether: mixed: bad row 'cut.png': not an image"),
        (["eval", "open_clip:NoSuch", "photos"], "tether: open_clip:NoSuch: unknown architecture"),
        ([*CLASSIFY, "--classes", "cat,cat"], "tether: classes: class 'cat' comes twice"),
        ([*CLASSIFY, "--classes", ""], "tether: classes: expected at least one class, got none"),
        (["audit", "nosuch", "--out", "a"], "'nosuch': no such file or folder, and no data set"),
        (["audit", "photos", "--out", "a", "--look", "shape"], "--look: expected label, caption, copy, outlier, got"),
        (
            ["audit", "photos", "--model", "model", "--out", "a", "--classes", "cat,cat"],
            "tether: classes: class 'cat' comes twice",
        ),
        (["index", "photos", "--out", "i"], "tether: photos: holds no .parquet file"),
        (["index", "no.parquet", "--out", "i"], "tether: no.parquet:"),
        (["search", "no-store", "cat"], "tether: no-store: no such store; make one with: tether index"),
        (["export", "nosuch", "out"], "tether: nosuch: no such model"),
        (["push", "nosuch", "--dry-run", "--out", "out", "--license", "mit"], "tether: nosuch: no such model"),
        (
            ["push", "model", "--dry-run", "--out", "out"],
            "tether: license: a model card needs one, and none is guessed",
        ),
        (["report", "photos"], "tether: photos: not a run"),
        (["curate", "photos", "--out", "u"], "tether: say what to do with the pairs: --recipe curate"),
        (["train", "no.yaml"], "tether: no.yaml: no such file"),
        (["train", "--resume"], "tether: command line: key 'data' is required"),
        ([*TRAIN, "clippper=none"], "unknown key 'clippper'; did you mean 'clipper'?"),
        ([*TRAIN, "clipper=zcilp"], "tether: settings: clipper: unknown part 'zcilp'; did you mean 'zclip'?"),
        (
            [*TRAIN, "optimizer.lr=fast"],
            "optimizer (adamw): lr: expected a number in [0, 1e+30), got 'fast'",
        ),
        (
            [*TRAIN, "precision=fp64"],
            "tether: override 'precision=fp64': precision: Input should be 'fp32', 'bf16' or 'fp16'",
        ),
        ([*TRAIN, "batch_size=16"], "tether: photos: only 2 good rows; one batch needs 16"),
        ([*TRAIN, "data=empty"], "tether: empty: empty, no files there"),
        ([*TRAIN, "model.load=nosuch"], "tether: nosuch: no such model"),
        ([*TRAIN, "--out", "photos"], "tether: photos: exists, is not empty and is not a run"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_one_clear_message(place: Path, call, arguments: list[str], message: str) -> None:
    before = {path.name for path in place.iterdir()}
    assert message in call(*arguments, code=2).err
    left = {path.name for path in place.iterdir()} - before
    assert all(name.endswith(".parts") for name in left), left  # where embed goes on from


def test_bad_images_are_counted_and_named_by_eval(place: Path, call) -> None:
    err = call("eval", "model", "mixed", "--json", "numbers.json", "--bootstrap", "0").err
    assert "3 bad rows were skipped; numbers.bad_rows.jsonl names them" in err
    assert json.loads((place / "numbers.json").read_text())["images"] == 3
    lines = (place / "numbers.bad_rows.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == ["cut.png", "nothing.png", "words.jpg"]
    call("eval", "model", "photos", "--json", "numbers.json", "--bootstrap", "0", "--existing", "replace")
    assert not (place / "numbers.bad_rows.jsonl").exists()


def damage_truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])


def damage_pickle(weights: Path) -> None:
    weights.write_bytes(pickle.dumps({"weight": [1.0]}))


def damage_architecture(weights: Path) -> None:
    save_file({"visual.conv1.weight": torch.zeros(2, 2)}, weights)


@pytest.mark.parametrize("damage", [damage_truncate, damage_pickle, damage_architecture], ids=lambda f: f.__name__[7:])
def test_a_run_does_not_go_on_from_a_damaged_checkpoint(place: Path, call, damage) -> None:
    call(*TRAIN, "save_every=1", "--out", "run")
    (place / "run" / "summary.json").unlink()
    checkpoint = max((place / "run" / "checkpoints").iterdir())
    damage(checkpoint / "model.safetensors")
    assert str(Path("run") / "checkpoints" / checkpoint.name) in call("train", "--resume", "--out", "run", code=2).err
    assert not (place / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "model"],
        ["embed", "photos"],
        ["export", "model"],
        ["push", "model"],
        ["classify", "photos"],
        ["audit", "photos"],
    ],
)
def test_what_is_missing_is_shown_by_an_example(call, arguments):
    assert f"For example: tether {arguments[0]} " in call(*arguments, code=2).err
