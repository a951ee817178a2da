"""Two processes walk the path of one at the same global batch, replicated and sharded."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tether.train.metrics_log import read_metrics

SCRIPT = Path(__file__).with_name("launch_training.py")
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


def run(launcher: list[str], folder: Path, *more: str, stop_after: int = 0, script: Path = SCRIPT) -> Path:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "STOP_AFTER": str(stop_after)}
    command = [sys.executable, *launcher, str(script), str(folder), *SETTINGS, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run([], tmp_path_factory.mktemp("alone") / "run")


def assert_same_path(left: Path, right: Path) -> None:
    for mine, theirs in zip(read_metrics(left / "metrics.jsonl"), read_metrics(right / "metrics.jsonl"), strict=True):
        for key in ("loss", "grad_norm", "grad_scale", "logit_scale", "lr"):
            assert mine[key] == pytest.approx(theirs[key], rel=2e-5), (mine["step"], key)
    mine, theirs = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_equal_one(tmp_path, alone, sharding):
    folder = run(TORCHRUN, tmp_path / "run", f"sharding={sharding}")
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert_same_path(folder, alone)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_all_stop_together_when_one_is_asked_and_go_on_as_if_nothing_had_been(tmp_path, alone, sharding):
    folder = run(TORCHRUN, tmp_path / "run", f"sharding={sharding}", stop_after=2)
    assert not (folder / "summary.json").exists()
    assert_same_path(run(TORCHRUN, folder, f"sharding={sharding}"), alone)


def test_two_processes_with_hard_negatives_equal_one(tmp_path):
    negatives = [
        "data={name: scene_twins, quadruples: 48}",
        "step={name: hard_negatives, keep_patches: 0.5, full_last: 0.4}",
        "objective={name: triplet_clip, duplicates: left_out}",
        "micro_batch=4",
        "steps=3",
    ]
    alone = run([], tmp_path / "alone", *negatives)
    assert_same_path(run(TORCHRUN, tmp_path / "two", "sharding=fsdp2", *negatives), alone)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_terms_are_means_over_processes_and_all_skip_what_one_cannot_use(tmp_path, sharding):
    script = SCRIPT.with_name("worker_terms.py")
    folder = run(TORCHRUN, tmp_path / "run", f"sharding={sharding}", "accumulate=1", "step=ranked", script=script)
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["rank"] for record in records] == [0.5] * 5
    assert [record["skipped"] for record in records] == [False, False, True, False, False]
    assert [record["loss"] is None for record in records] == [False, False, True, False, False]


def processes(folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes of ``tether train``, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, "-m", "tether", "train", *SETTINGS, "steps=100000", "--out", str(folder)]
    return [
        subprocess.Popen(
            command,
            env=common | {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_a_killed_process_ends_the_other_with_one_message_and_a_second_run_beside_them_is_refused(tmp_path):
    first, second = processes(tmp_path / "run")
    others: list[subprocess.Popen[str]] = []
    try:
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        others = processes(tmp_path / "run")
        for process in others:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 2, said
            assert f"process {first.pid} on " in said
            assert "Traceback" not in said
        second.kill()
        _, said = first.communicate(timeout=120)
        assert first.returncode == 2, said
        assert said == (
            f"tether: another process of the run ended; go on with: tether train --resume --out {tmp_path / 'run'}\n"
        )
    finally:
        for process in (first, second, *others):
            process.kill()
            process.communicate()
