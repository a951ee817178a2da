"""A tower that serves both modalities, with chance and a fixed scale, walks one path on one process and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_training import assert_same_path, run

MORE = ["model={towers: shared}", "logit_scale=fixed", "steps=3", "accumulate=1"]
OBJECTIVES = {
    "align_clip": ["step=semantic", "objective=align_clip"],
    "m2_mix": ["step=contrastive", "objective={name: m2_mix, m2: 0.5, v: 0.2, vl: 0.2}"],
}

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("objective", "sharding"), [("align_clip", "fsdp2"), ("m2_mix", "ddp")])
def test_two_processes_equal_one(tmp_path: Path, objective: str, sharding: str) -> None:
    settings = [*MORE, *OBJECTIVES[objective]]
    alone = run(1, tmp_path / "alone", *settings)
    assert_same_path(run(2, tmp_path / "two", f"sharding={sharding}", *settings), alone)
