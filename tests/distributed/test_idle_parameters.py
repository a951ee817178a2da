"""What takes no part in a loss, a bias that its objective ignores or the vector of hidden patches, is no fault."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

from tiers import covering

IDLE = {"bias": ["model={logit_bias: -10}"], "vector": ["edits=[masked_patches]"]}

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("kind", "sharding"), covering(IDLE, ["ddp", "fsdp2"]))
def test_two_processes_go_through(tmp_path, kind, sharding):
    settings = ["clipper=global_norm", "steps=3", *IDLE[kind]]
    alone = run(1, tmp_path / "one", *settings)
    assert_same_path(run(2, tmp_path / "two", f"sharding={sharding}", *settings), alone)
