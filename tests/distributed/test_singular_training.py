"""Singular values that learn while all else rests: two processes walk the path of one, split or whole."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

import tether
from tether.models import create

EDITED = ["edits=[{name: svd, layers: top}]", "optimizer={name: adamw, lr: 0.01, eps: 0.0001}", "steps=4"]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    start = tether.save(create("tiny", seed=5), tmp_path_factory.mktemp("start"))
    return [f"model={{load: {start}}}", *EDITED]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, edited):
    return run(1, tmp_path_factory.mktemp("alone") / "run", *edited)


@pytest.mark.parametrize(("sharding", "stop_after"), [("ddp", 2), pytest.param("fsdp2", 0, marks=pytest.mark.nightly)])
def test_two_processes_equal_one(tmp_path, edited, alone, sharding, stop_after):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *edited, stop_after=stop_after)
    if stop_after:
        run(2, folder, f"sharding={sharding}", *edited)
    assert_same_path(folder, alone)
