"""Checkpoints in parts: the same as whole ones for one process, never seen half written, and damage named."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tether
from tether.core.errors import InputError, StoppedError, TetherError
from tether.core.model_digest import file_digest
from tether.core.tensor_shards import shard_file, write_shard
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics
from tether.training.seal import KEY, sealed

SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "model={vision: {layers: 1}, text: {layers: 1}}",
    *("batch_size=8", "steps=4", "save_every=1", "keep=2", "precision=fp32", "threads=1", "ema=0.9", "vocabulary=used"),
]
FILE = shard_file(0, 1)


def go(folder: Path, *more: str, stop_after: int = 0, resume: bool = False) -> Path:
    asked = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) == stop_after

    config = load_config(overrides=[*SETTINGS, *more])
    if stop_after:
        with pytest.raises(StoppedError):
            train(config, folder=folder, should_stop=should_stop, resume=resume)
    else:
        train(config, folder=folder, resume=resume)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return go(tmp_path_factory.mktemp("whole") / "run", "checkpoints=whole")


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    return go(tmp_path_factory.mktemp("sharded") / "run", "checkpoints=sharded", stop_after=2)


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return Path(shutil.copytree(stopped_once, tmp_path / "run", ignore=shutil.ignore_patterns(".lock")))


def assert_equal(left: Path, right: Path) -> None:
    one, two = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [[record["loss"] for record in read_metrics(folder / "metrics.jsonl")] for folder in (left, right)]
    assert losses[0] == losses[1]


def newest(run: Path) -> Path:
    return list_checkpoints(run / "checkpoints")[-1]


@pytest.mark.parametrize("then", ["sharded", "whole"])
def test_a_run_goes_on_bit_for_bit_and_may_change_how_it_saves(stopped, whole, then):
    assert [path.name for path in list_checkpoints(stopped / "checkpoints")] == ["step-00000001", "step-00000002"]
    assert sorted(path.name for path in newest(stopped).iterdir()) == [FILE, "state.json"]
    go(stopped, f"checkpoints={then}", resume=True)
    assert_equal(stopped, whole)
    kept = [
        (path.name, sorted(one.name for one in path.iterdir())) for path in list_checkpoints(stopped / "checkpoints")
    ]
    groups = [f"{name}.safetensors" for name in ("ema", "model", "optimizer")]
    files = [FILE, "state.json"] if then == "sharded" else [*groups, "state.json"]
    assert kept == [("step-00000002", [FILE, "state.json"]), ("step-00000003", files)]


def test_an_unfinished_run_is_a_model_and_its_checkpoint_is_read_like_any_other(stopped):
    saved = load_checkpoint(newest(stopped))
    assert saved.tensors.keys() == {"model", "optimizer", "ema"}
    for model in (tether.load(stopped), tether.load(newest(stopped))):
        state = model.state_dict()
        assert state.keys() == saved.tensors["model"].keys()
        assert all(torch.equal(value, saved.tensors["model"][name]) for name, value in state.items())
    (newest(stopped) / FILE).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"step-00000002/{FILE}: missing, truncated"):
        tether.load(stopped)


def rewritten(change):
    """A file whose digest is right, as one from somebody else may be."""

    def damage(checkpoint: Path) -> None:
        change(checkpoint / FILE)
        reseal(lambda record: record["shards"].update({FILE: file_digest(checkpoint / FILE)}))(checkpoint)

    return damage


def reseal(change):
    def damage(checkpoint: Path) -> None:
        record = json.loads((checkpoint / "state.json").read_text())
        del record[KEY]
        change(record)
        (checkpoint / "state.json").write_text(json.dumps(sealed(record)))

    return damage


def state(**values):
    def change(record: dict) -> None:
        record["state"]["__map__"] = [[key, values.get(key, value)] for key, value in record["state"]["__map__"]]

    return reseal(change)


def tensors(change):
    def rewrite(file: Path) -> None:
        found = load_file(file)
        change(found)
        write_shard(file, {name: (one, (0,) * one.ndim) for name, one in found.items()}, about={})

    return rewritten(rewrite)


def flipped(checkpoint: Path) -> None:
    data = bytearray((checkpoint / FILE).read_bytes())
    data[-5] ^= 1
    (checkpoint / FILE).write_bytes(data)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-pickle"),))


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb()))
    (file.parent / ".metadata").write_bytes(pickle.dumps(Bomb()))


def first(found: dict, prefix: str) -> str:
    return next(name for name in sorted(found) if name.startswith(prefix) and found[name].ndim == 2)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flipped, rf"{FILE}: truncated or damaged: not the part of process 0 of 1"),
        (lambda checkpoint: (checkpoint / FILE).unlink(), rf"{FILE}: missing: the part of process 0 of 1"),
        (rewritten(pickled), rf"{FILE}: missing, truncated or not safetensors"),
        (rewritten(lambda file: save_file({"a": torch.ones(1)}, file)), rf"{FILE}: 'a': expected a block"),
        (reseal(lambda record: record["shards"].update({"../../evil": "0"})), "state.json: not a readable checkpoint"),
        (reseal(lambda record: record.update(shards={"rank-00000-of-99999.safetensors": "0"})), "of 99999 processes"),
        (reseal(lambda record: record.update(shards=3)), "state.json: not a readable checkpoint"),
        (reseal(lambda record: record.update(shards={})), "state.json: not a readable checkpoint"),
        (tensors(lambda found: found.pop(first(found, "model/"))), "missing "),
        (tensors(lambda found: found.update({"model/other": torch.ones(1)})), "unexpected other"),
        (
            tensors(lambda found: found.update({"other": torch.ones(1)})),
            rf"{FILE}: 'other': expected the name of a group",
        ),
        (state(skipped=None), r"step-00000002: does not fit this run: int\(\) argument"),
        (state(seconds=[1]), r"step-00000002: does not fit this run: float\(\) argument"),
        (state(skipped=float("inf")), r"step-00000002: does not fit this run: cannot convert"),
        (tensors(lambda found: found.update({"optimizer/other.step": torch.ones(())})), "the model does not have"),
        (tensors(lambda found: found.update({first(found, "optimizer/"): torch.ones(3, 5)})), "does not fit"),
        (tensors(lambda found: found.update({first(found, "ema/"): torch.ones(3, 5)})), "does not fit this run"),
        (tensors(lambda found: [found.pop(name) for name in list(found) if name[0] == "e"]), "does not fit this run"),
    ],
)
def test_damage_is_named_and_nothing_is_unpickled(stopped, damage, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage(newest(stopped))
    with pytest.raises(InputError, match=said) as told:
        go(stopped, "checkpoints=sharded", resume=True)
    assert "step-00000002" in str(told.value)
    assert not Path("touched-by-a-pickle").exists()


def test_a_checkpoint_of_another_model_and_other_settings_are_refused(stopped, tmp_path):
    other = go(tmp_path / "other", "checkpoints=sharded", "model={vision: {layers: 2}}", stop_after=1)
    shutil.rmtree(stopped / "checkpoints")
    shutil.copytree(other / "checkpoints", stopped / "checkpoints")
    with pytest.raises(InputError, match=r"step-00000001: weights of another architecture: unexpected text"):
        go(stopped, "checkpoints=sharded", resume=True)
    with pytest.raises(InputError, match="batch_size: the run has 8, asked for 4"):
        go(other, "checkpoints=sharded", "model={vision: {layers: 2}}", "batch_size=4", resume=True)


def test_a_full_disk_is_one_message_and_the_checkpoint_before_stands(stopped, monkeypatch, whole):
    def full(path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("tether.training.sharded.write_shard", full)
        with pytest.raises(TetherError, match=r"step-00000003: could not be written: No space left on device; earl"):
            go(stopped, "checkpoints=sharded", resume=True)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-00000001", "step-00000002"]
    assert_equal(go(stopped, "checkpoints=sharded", resume=True), whole)


def test_a_mistake_in_the_code_is_not_told_as_a_full_disk(stopped, monkeypatch):
    def wrong(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tether.training.sharded.write_shard", wrong)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        go(stopped, "checkpoints=sharded", resume=True)
