import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from tether.core.errors import InputError
from tether.training.checkpoints import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    remove_unfinished,
    save_checkpoint,
)


def example(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    state = {
        "clipper": {"mean": torch.tensor(0.1, dtype=torch.float64), "buffer": torch.rand(3, generator=generator)},
        "data": {"epoch": 2, "name": "emoji"},
        "empty": torch.empty(0),
        "flag": torch.tensor(True),
        "generator": generator.get_state(),
        "list": [1, None, "x", 0.1 + 0.2],
        7: "integer keys stay integers",
    }
    return Checkpoint(step, {"model": {"a.weight": torch.rand(3, 2, generator=generator)}, "optimizer": {}}, state)


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


def test_everything_comes_back_bit_for_bit(tmp_path):
    saved = example(12)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved, keep=1))
    assert loaded.step == 12
    assert same(loaded.tensors, saved.tensors)
    assert same(loaded.state, saved.state)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_permissions_of_new_ones(tmp_path, mask):
    before = os.umask(mask)
    try:
        made = save_checkpoint(tmp_path, example(1), keep=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {0o666 & ~mask}


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, example(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000010"]


def test_a_full_disk_leaves_the_last_checkpoint_and_no_rest(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, example(1), keep=2)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("tether.training.checkpoints.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, example(2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(tmp_path / "step-00000001").step == 1


def test_what_a_killed_save_left_behind_is_neither_listed_nor_kept(tmp_path):
    (tmp_path / ".saving-abc").mkdir()
    assert list_checkpoints(tmp_path) == []
    save_checkpoint(tmp_path, example(3), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_checkpoint_is_replaced_without_a_moment_in_which_there_is_none(tmp_path, monkeypatch):
    folder, killed = tmp_path / "checkpoints", []
    save_checkpoint(folder, example(3), keep=1)
    rename = Path.rename

    def seen(path, target):
        if folder not in path.parents:
            return rename(path, target)
        for moment in ("before", "after"):
            copy = shutil.copytree(folder, tmp_path / f"{moment}{len(killed)}")
            remove_unfinished(copy)
            killed.append(newest_checkpoint(copy, steps=9))
            if moment == "before":
                made = rename(path, target)
        return made

    monkeypatch.setattr(Path, "rename", seen)
    save_checkpoint(folder, example(3), keep=1)
    assert [one.step for one in killed] == [3] * len(killed)
    assert len(killed) >= 4
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]


def test_a_truncated_file_is_named(tmp_path):
    path = save_checkpoint(tmp_path, example(1), keep=1)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"model\.safetensors: truncated or damaged"):
        load_checkpoint(path)


def test_a_state_that_is_not_a_checkpoint_is_named(tmp_path):
    path = save_checkpoint(tmp_path, example(1), keep=1)
    (path / "state.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(InputError, match=r"state\.json: damaged or edited"):
        load_checkpoint(path)


def test_a_damaged_checkpoint_comes_with_the_way_out(tmp_path):
    assert newest_checkpoint(tmp_path, steps=9) is None
    for step in (1, 2):
        weights = save_checkpoint(tmp_path, example(step), keep=2) / "model.safetensors"
    assert newest_checkpoint(tmp_path, steps=2).step == 2
    weights.write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)2/model\.saf.*remove the folder .*2 to go on from .*, step-00000001$"):
        newest_checkpoint(tmp_path, steps=9)
    shutil.rmtree(weights.parent)
    assert newest_checkpoint(tmp_path, steps=9).step == 1
    (tmp_path / "step-00000001" / "state.json").unlink()
    with pytest.raises(InputError, match=r"remove the folder .*step-00000001 to begin again; there is no other$"):
        newest_checkpoint(tmp_path, steps=9)


def test_a_checkpoint_of_another_step_or_past_the_end_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, example(500), keep=1)
    with pytest.raises(InputError, match=r"step-00000500: a checkpoint after step 500 in a run of 100 steps"):
        newest_checkpoint(tmp_path, steps=100)
    path.rename(tmp_path / "step-00000050")
    with pytest.raises(InputError, match=r"state\.json: holds step 500, but the folder is named step-00000050"):
        newest_checkpoint(tmp_path, steps=100)
