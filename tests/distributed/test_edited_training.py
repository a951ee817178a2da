"""Positions that rest and patches that are hidden, FIX-CLIP's two branches: two processes walk the path of one."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

import tether
from tether.models import create
from tether.training.checkpoints import list_checkpoints, load_checkpoint

EDITED = [
    "edits=[{name: kept_positions, keep: 8}, masked_patches]",
    "step={views: {image: {}, text: {}, masked: {source: image, patches: {name: random, keep: 0.25}}, "
    "short: {source: text, rewrite: first_sentence}}, "
    "terms: [{name: fix_clip, extra: {masked_image: masked, short_text: short}}]}",
    "optimizer={name: lamb, lr: 0.01, eps: 0.0001}",
    "clipper=global_norm",
    "steps=4",
]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    start = tmp_path_factory.mktemp("start")
    tether.save(create("tiny", seed=5), start)
    return [f"model={{load: {start}, resized: {{context: 40, how: {{name: stretch, keep: 8, ratio: 2}}}}}}", *EDITED]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, edited):
    return run(1, tmp_path_factory.mktemp("alone") / "run", *edited)


@pytest.mark.parametrize(("sharding", "stop_after"), [pytest.param("ddp", 2, marks=pytest.mark.nightly), ("fsdp2", 0)])
def test_two_processes_equal_one(tmp_path, edited, alone, sharding, stop_after):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *edited, stop_after=stop_after)
    if stop_after:
        checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
        assert bool(checkpoint.tensors["model"]["visual.patch.vector"].any())
        run(2, folder, f"sharding={sharding}", *edited)
    assert_same_path(folder, alone)
