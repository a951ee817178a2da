"""A fault in one of two processes alone: both go back once, in the same step, and stay equal."""

from __future__ import annotations

import functools
import json
import math

import pytest
from test_training import assert_same_path

from planted_faults import launch_faulty
from processes import run_ranks
from tether.training.metrics_log import read_metrics
from tether.training.result import read_result

TOWER = "width: 16, hidden: 16, heads: 1, layers: 1"
FAULTY = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    f"model={{dim: 16, vision: {{{TOWER}, patch: 16}}, text: {{{TOWER}}}}}",
    "batch_size=16",
    "steps=10",
    "precision=fp32",
    "clipper={name: zclip, warmup_steps: 2, max_grad_norm: 0.5}",
    "step={name: contrastive, keep_patches: 0.5, full_last: 0.4}",
    "optimizer={name: adamw, lr: 0.001, eps: 0.0001}",
    "ema=0.9",
    "save_every=3",
    "threads=1",
    "rollback={every: 3, window: 4, margin: 1, sustained: 2}",
]
FAULTS = {"ddp": math.nan, "fsdp2": 50.0}
"""What the loss is multiplied with on bad batches."""

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run of two processes that nobody stopped, by how it is shared out."""

    @functools.cache
    def of(sharding: str):
        folder = tmp_path_factory.mktemp("rollback") / "run"
        run_ranks(launch_faulty, folder, [*FAULTY, f"sharding={sharding}"], 0, FAULTS[sharding])
        return folder

    return of


def assert_same_path_but_for_the_record(left, right) -> None:
    for folder in (left, right):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines if '"rollback"' not in line))
    assert_same_path(left, right)


@pytest.mark.parametrize("sharding", FAULTS)
def test_all_agree_on_one_rollback(whole, sharding):
    folder = whole(sharding)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    (told,) = first["records"]
    assert (told["to"], told["first_bad"], told["at"], told["skipped_batches"]) == (6, 7, 8, 3)
    assert [one["step"] for one in read_metrics(folder / "metrics.jsonl") if "loss" in one] == [*range(10)]
    assert read_result(folder).rollbacks == 1


def test_two_processes_take_the_path_of_one(whole, tmp_path):
    run_ranks(launch_faulty, tmp_path / "run", FAULTY, 0, FAULTS["ddp"], world=1)
    assert_same_path_but_for_the_record(tmp_path / "run", whole("ddp"))


@pytest.mark.nightly
@pytest.mark.parametrize(("sharding", "after"), [("fsdp2", 8), ("ddp", 9)])
def test_stopped_in_the_middle_of_it_both_go_on(tmp_path, whole, sharding, after):
    settings = [*FAULTY, f"sharding={sharding}"]
    run_ranks(launch_faulty, tmp_path / "run", settings, after, FAULTS[sharding])
    assert not (tmp_path / "run" / "summary.json").exists()
    run_ranks(launch_faulty, tmp_path / "run", settings, 0, FAULTS[sharding])
    for rank in range(2):
        assert (tmp_path / "run" / f"rank-{rank}.json").read_text() == (
            whole(sharding) / f"rank-{rank}.json"
        ).read_text()
