"""Checkpoints that each process writes its own part of: other processes and another sharding go on from them."""

from __future__ import annotations

import shutil

import pytest
from launch_sharded import launch_killed, launch_on_other_disks, launch_without_gathering
from launch_training import launch
from test_rollback_training import FAULTY, assert_same_path_but_for_the_record
from test_training import SETTINGS, assert_same_path, run

from planted_faults import launch_faulty
from processes import ranks, run_ranks
from tether.core.tensor_shards import shard_file
from tether.training.checkpoints import list_checkpoints, load_checkpoint

FAULT = float("nan")
HELD = [*FAULTY, "vocabulary=used"]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(1, tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """Two sharded processes that were stopped after the second step."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    run_ranks(launch_without_gathering, folder, [*SETTINGS, "sharding=fsdp2"], 2)
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return shutil.copytree(stopped_once, tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))


def files(run):
    return {path.name: sorted(one.name for one in path.iterdir()) for path in list_checkpoints(run / "checkpoints")}


def told(started) -> list[str]:
    said = [child.communicate()[1] for child in started]
    assert [child.returncode for child in started] == [1] * len(started), said
    return [one.strip().splitlines()[-1] for one in said]


def test_two_processes_one_and_two_again_equal_one(stopped, alone):
    parts = [*(shard_file(rank, 2) for rank in range(2)), "state.json"]
    assert files(stopped) == {"step-00000002": parts}
    run_ranks(launch, stopped, SETTINGS, 1, world=1)
    assert "model.safetensors" in files(stopped)["step-00000003"]
    run_ranks(launch, stopped, [*SETTINGS, "sharding=ddp", "checkpoints=sharded"], 1)
    assert files(stopped)["step-00000004"] == parts
    run_ranks(launch, stopped, [*SETTINGS, "sharding=fsdp2"], 0)
    assert_same_path(stopped, alone)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Two sharded processes that were stopped just before they go back, and one that was not."""
    folder = tmp_path_factory.mktemp("faulty")
    run_ranks(launch_faulty, folder / "two", [*HELD, "sharding=fsdp2"], 8, FAULT)
    run_ranks(launch_faulty, folder / "alone", HELD, 0, FAULT, world=1)
    return folder


@pytest.mark.parametrize("then", ["sharded", pytest.param("whole", marks=pytest.mark.nightly)])
def test_what_two_processes_hold_one_goes_back_to(faulty, tmp_path, then):
    shutil.copytree(faulty, tmp_path, ignore=shutil.ignore_patterns(".lock"), dirs_exist_ok=True)
    left = load_checkpoint(list_checkpoints(tmp_path / "two" / "checkpoints")[-1])
    assert any(name.startswith("back") for name in left.tensors)
    run_ranks(launch_faulty, tmp_path / "two", [*HELD, f"checkpoints={then}"], 0, FAULT, world=1)
    assert_same_path_but_for_the_record(tmp_path / "two", tmp_path / "alone")


def test_killed_while_it_saves_it_goes_on_from_the_checkpoint_before(tmp_path, alone):
    settings = [*SETTINGS, "sharding=fsdp2", "save_every=2"]
    first, second = ranks(launch_killed, tmp_path / "run", settings, 4)
    _, said = first.communicate()
    second.communicate()
    assert (first.returncode, second.returncode) == (1, -9)
    assert "another process of the run ended; go on with: tether train --resume" in said
    left = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert left == ["step-00000002"]
    run_ranks(launch, tmp_path / "run", settings, 0)
    assert_same_path(tmp_path / "run", alone)


def test_damage_that_one_process_finds_is_told_by_all(stopped):
    file = list_checkpoints(stopped / "checkpoints")[-1] / shard_file(1, 2)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    said = [child.communicate()[1] for child in ranks(launch, stopped, [*SETTINGS, "sharding=fsdp2"], 0)]
    assert all(f"{file}: truncated or damaged: not the part of process 1 of 2" in one for one in said)


def test_a_folder_that_machines_do_not_share_is_told_before_the_first_step(tmp_path):
    settings = [*SETTINGS, "checkpoints=sharded"]
    said = told(ranks(launch_on_other_disks, tmp_path, settings))
    assert all(
        "process 1 does not see what process 0 writes: checkpoints=sharded needs a folder" in one for one in said
    )


def test_processes_that_see_other_checkpoints_do_not_go_on(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "0", ignore=shutil.ignore_patterns(".lock"))
    shutil.copytree(stopped, tmp_path / "1", ignore=shutil.ignore_patterns(".lock", "step-*"))
    said = told(ranks(launch_on_other_disks, tmp_path, [*SETTINGS, "checkpoints=whole"]))
    assert all("process 0 sees the checkpoint of step 2, process 1 that of step None" in one for one in said)
