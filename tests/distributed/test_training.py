"""Two processes walk the path of one at the same global batch, replicated and sharded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launch_training import launch, launch_ranked
from safetensors.torch import load_file

from processes import Child, command_line, ranks, run_ranks
from tether.training.metrics_log import read_metrics

SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=16",
    "steps=5",
    "precision=fp32",
    "accumulate=2",
    "clipper={name: zclip, warmup_steps: 2, max_grad_norm: 0.5}",
    "step={name: contrastive, keep_patches: 0.5, full_last: 0.4}",
    "optimizer={name: adamw, lr: 0.001, eps: 0.0001}",
    "ema=0.9",
    "save_every=3",
    "threads=1",
]

pytestmark = pytest.mark.distributed


def run(processes: int, folder: Path, *more: str, stop_after: int = 0, function: Callable[..., None] = launch) -> Path:
    run_ranks(function, folder, [*SETTINGS, *more], stop_after, world=processes)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(1, tmp_path_factory.mktemp("alone") / "run")


def assert_same_path(left: Path, right: Path) -> None:
    for mine, theirs in zip(read_metrics(left / "metrics.jsonl"), read_metrics(right / "metrics.jsonl"), strict=True):
        for key in ("loss", "grad_norm", "grad_scale", "logit_scale", "lr"):
            assert mine[key] == pytest.approx(theirs[key], rel=2e-5), (mine["step"], key)
    mine, theirs = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name


@pytest.mark.nightly
def test_two_processes_of_torchrun_equal_one(tmp_path, alone):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    command = [sys.executable, *torchrun, "-m", "tether", "train", *SETTINGS, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_path(tmp_path / "run", alone)


def test_two_sharded_processes_equal_one(tmp_path, alone):
    folder = run(2, tmp_path / "run", "sharding=fsdp2")
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert_same_path(folder, alone)


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp2", marks=pytest.mark.nightly)])
def test_all_stop_together_when_one_is_asked_and_go_on_as_if_nothing_had_been(tmp_path, alone, sharding):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", stop_after=2)
    assert not (folder / "summary.json").exists()
    assert_same_path(run(2, folder, f"sharding={sharding}"), alone)


def test_two_processes_with_hard_negatives_equal_one(tmp_path):
    negatives = [
        "data={name: scene_twins, quadruples: 48}",
        "step={name: hard_negatives, keep_patches: 0.5, full_last: 0.4}",
        "objective={name: triplet_clip, duplicates: left_out}",
        "micro_batch=4",
        "steps=3",
    ]
    alone = run(1, tmp_path / "alone", *negatives)
    assert_same_path(run(2, tmp_path / "two", "sharding=fsdp2", *negatives), alone)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_terms_are_means_over_processes_and_all_skip_what_one_cannot_use(tmp_path, sharding):
    more = [f"sharding={sharding}", "accumulate=1", "step=ranked"]
    folder = run(2, tmp_path / "run", *more, function=launch_ranked)
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["rank"] for record in records] == [0.5] * 5
    assert [record["skipped"] for record in records] == [False, False, True, False, False]
    assert [record["loss"] is None for record in records] == [False, False, True, False, False]


def start(folder: Path) -> list[Child]:
    """Two processes of ``tether train``, as a launcher starts them."""
    return ranks(command_line, "train", *SETTINGS, "steps=100000", "--out", str(folder))


def test_a_killed_process_ends_the_other_with_one_message_and_a_second_run_beside_them_is_refused(tmp_path):
    first, second = start(tmp_path / "run")
    others: list[Child] = []
    try:
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        others = start(tmp_path / "run")
        for process in others:
            _, said = process.communicate()
            assert process.returncode == 2, said
            assert f"process {first.pid} on " in said
            assert "Traceback" not in said
        second.kill()
        _, said = first.communicate()
        assert first.returncode == 2, said
        assert said == (
            f"tether: another process of the run ended; go on with: tether train --resume --out {tmp_path / 'run'}\n"
        )
    finally:
        for process in (first, second, *others):
            process.kill()
            process.communicate()
