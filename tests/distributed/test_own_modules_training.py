"""Heads, their batch norm and their trailing copies, and experts with their balance, are those of the whole batch."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

import tether
from tether.models import create
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics

HEADED = [
    "contents={crops: {strong_image: {scale: [0.3, 1.0]}, other_image: {scale: [0.3, 1.0]}}, "
    "captions: {strong_text: augmented, other_text: augmented}}",
    "step={teacher: {ema: {momentum: 0.9}}, views: {image: {}, text: {}, strong_image: {}, other_image: {}, "
    "strong_text: {}, other_text: {}, t1: {of: image, encoder: teacher}, t2: {of: text, encoder: teacher}}, "
    "terms: [{name: rocket, local_images: [strong_image, other_image], local_texts: [strong_text, other_text], "
    "label_smoothing: 0.0, swapped: 0.2}, {name: siamese, targets: {image: t1, text: t2}}, barlow, prototypes], "
    "heads: {projectors: {name: projectors, hidden: [16], scale: 10}, "
    "siamese: {name: projectors, hidden: [16], out: 8, predictor: 16, momentum: 0.9}, "
    "barlow: {name: projectors, hidden: [16], out: 24, last_norm: plain}, "
    "prototypes: {name: projectors, hidden: [16], out: 8, prototypes: 12}}}",
]
EXPERTS = ["step={terms: [objective, {name: experts, balance: 0.1, router_z: 0.01}]}"]
LOGGED = {
    "heads": ("rocket", "swapped", "siamese", "barlow", "prototypes", "local_scale"),
    "experts": ("experts", "image_load_balance", "text_load_balance", "text_router_z", "image_top_share"),
}

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For each kind of run its settings, and the folder of one process."""
    dense = tmp_path_factory.mktemp("dense")
    tether.save(create("tiny", seed=5), dense)
    model = f"model={{load: {dense}, upcycle: {{experts: 4, capacity_factor: 1.5}}}}"
    own = {"heads": HEADED, "experts": [model, *EXPERTS]}
    common = ["clipper=global_norm", "steps=4"]
    return {
        kind: ([*common, *more], run(1, tmp_path_factory.mktemp(kind) / "run", *common, *more))
        for kind, more in own.items()
    }


@pytest.mark.parametrize(
    ("kind", "sharding", "stop_after"),
    [
        ("heads", "ddp", 2),
        ("experts", "fsdp2", 0),
        pytest.param("experts", "fsdp2", 2, marks=pytest.mark.nightly),
        pytest.param("heads", "fsdp2", 0, marks=pytest.mark.nightly),
        pytest.param("experts", "ddp", 0, marks=pytest.mark.nightly),
    ],
)
def test_two_processes_equal_one(tmp_path, runs, kind, sharding, stop_after):
    settings, alone = runs[kind]
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *settings, stop_after=stop_after)
    if stop_after:
        checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
        assert checkpoint.step == stop_after
        assert ("heads" in checkpoint.tensors) == (kind == "heads")
        run(2, folder, f"sharding={sharding}", *settings)
    assert_same_path(folder, alone)
    mine, theirs = (list(read_metrics(path / "metrics.jsonl")) for path in (folder, alone))
    for ours, wanted in zip(mine, theirs, strict=True):
        for key in LOGGED[kind]:
            assert ours[key] == pytest.approx(wanted[key], rel=1e-4), (ours["step"], key)
