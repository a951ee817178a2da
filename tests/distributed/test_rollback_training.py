"""A fault in one of two processes alone: both go back once, in the same step, and stay equal."""

from __future__ import annotations

import json

import pytest
from test_training import SETTINGS, assert_same_path

from planted_faults import launch_faulty
from processes import run_ranks
from tether.train.metrics_log import read_metrics
from tether.train.result import read_result

FAULTY = [*SETTINGS, "accumulate=1", "steps=10", "rollback={every: 3, window: 4, margin: 1, sustained: 2}"]

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("sharding", "factor"), [("ddp", float("nan")), ("fsdp2", float("nan")), ("ddp", 50.0)])
def test_all_agree_on_one_rollback(tmp_path, sharding, factor):
    settings = [*FAULTY, f"sharding={sharding}"]
    run_ranks(launch_faulty, tmp_path / "run", settings, 0, factor)
    first, second = (json.loads((tmp_path / "run" / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    (told,) = first["records"]
    assert (told["to"], told["first_bad"], told["at"], told["skipped_batches"]) == (6, 7, 8, 3)
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in record] == [
        *range(10)
    ]
    assert read_result(tmp_path / "run").rollbacks == 1
    if factor != factor:  # not a number: one process sees what two see
        run_ranks(launch_faulty, tmp_path / "alone", FAULTY, 0, factor, world=1)
        assert_same_path_but_for_the_record(tmp_path / "run", tmp_path / "alone")


def assert_same_path_but_for_the_record(left, right) -> None:
    for folder in (left, right):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines if '"rollback"' not in line))
    assert_same_path(left, right)


@pytest.mark.parametrize(("sharding", "after"), [("fsdp2", 8), ("ddp", 10)])
def test_stopped_in_the_middle_of_it_both_go_on(tmp_path, sharding, after):
    settings = [*FAULTY, f"sharding={sharding}"]
    run_ranks(launch_faulty, tmp_path / "whole", settings, 0, float("nan"))
    run_ranks(launch_faulty, tmp_path / "run", settings, after, float("nan"))
    assert not (tmp_path / "run" / "summary.json").exists()
    run_ranks(launch_faulty, tmp_path / "run", settings, 0, float("nan"))
    whole, run = ((tmp_path / name / "rank-1.json").read_text() for name in ("whole", "run"))
    assert whole == run
