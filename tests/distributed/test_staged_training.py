"""A teacher, a decoder that is trained along, and stages: two processes walk the path of one, stopped or not."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

import tether
from tether.models import create
from tether.training.checkpoints import list_checkpoints, load_checkpoint

STAGED = [
    "step={views: {image: {}, text: {}, crop: {source: image, crop: 0.6, keep_patches: 0.5}, "
    "teacher_image: {source: image, encoder: TEACHER}, teacher_text: {source: text, encoder: TEACHER}}, "
    "terms: [objective, {name: clip, image: crop, weight: 0.2}, similarity, {name: caption, weight: 0.1}], "
    "heads: {decoder: {name: causal_decoder, width: 32, layers: 1, heads: 2}}}",
    "stages=[{steps: 2}, {steps: 2, batch_size: 8, trainable: ['visual.*', 'heads.*']}, "
    "{steps: 1, step: contrastive, learning_rate: 0.5}]",
    "clipper=global_norm",
]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    teacher = tmp_path_factory.mktemp("teacher")
    tether.save(create("tiny", seed=5), teacher)
    return [setting.replace("TEACHER", str(teacher)) for setting in STAGED]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, staged):
    return run(1, tmp_path_factory.mktemp("alone") / "run", *staged)


@pytest.mark.parametrize(
    ("sharding", "stop_after"),
    [
        ("ddp", 2),
        ("fsdp2", 0),
        pytest.param("ddp", 0, marks=pytest.mark.nightly),
        pytest.param("fsdp2", 3, marks=pytest.mark.nightly),
    ],
)
def test_two_processes_equal_one(tmp_path, staged, alone, sharding, stop_after):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *staged, stop_after=stop_after)
    if stop_after:
        checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
        assert checkpoint.step == stop_after
        assert checkpoint.tensors["heads"]
        run(2, folder, f"sharding={sharding}", *staged)
    assert_same_path(folder, alone)
