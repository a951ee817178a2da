"""Gates and their controllers are those of the whole batch, however many processes share it."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

from tether.training.metrics_log import read_metrics

GATED = [
    "model={vision: {gate: mirror}, text: {gate: mirror}}",
    "step={name: skip_middle, start: 0.4, gain: 20.0, dead_zone: 0.0}",
    "ema=null",
]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(1, tmp_path_factory.mktemp("alone") / "run", *GATED)


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp2", marks=pytest.mark.nightly)])
def test_two_processes_equal_one(tmp_path, alone, sharding):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *GATED)
    assert_same_path(folder, alone)
    mine, theirs = (list(read_metrics(path / "metrics.jsonl")) for path in (folder, alone))
    for side in ("image", "text"):
        assert theirs[0][f"{side}_gate_penalty"] == 0
        for ours, wanted in zip(mine[1:], theirs[1:], strict=True):
            assert abs(wanted[f"{side}_gate_penalty"]) > 0.1
            for key in (f"{side}_gate_penalty", f"{side}_gate"):
                assert ours[key] == pytest.approx(wanted[key], rel=1e-4), (ours["step"], key)
