"""A run with guided views, a smaller trailing teacher and heads of its own goes on as if it had never stopped."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tether.core.errors import InputError, StoppedError
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint

GUIDED = "{patches: attentive, attended: whole_image, want: state}"
STEP = (
    "{teacher: {ema: {momentum: [0.5, 1.0], image_size: 16}}, views: {text: {}, "
    f"image: {GUIDED}, second_image: {GUIDED}, whole_image: {{encoder: teacher, want: state}}}}, "
    "terms: [{name: objective, weight: 0.5}, {name: objective, image: second_image, weight: 0.5}, simclr, byol], "
    "heads: {simclr: {name: projection, inputs: state, hidden: 32, layers: 3, out: 16, last: affine}, "
    "projector: {name: projection, inputs: state, hidden: 32, out: 16}, "
    "predictor: {name: projection, inputs: 16, hidden: 32, out: 16}}}"
)
SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=12",
    "micro_batch=5",
    "steps=4",
    "precision=fp32",
    "vocabulary=used",
    "threads=1",
    "contents={crops: {image: {scale: [0.5, 1.0]}, second_image: {scale: [0.5, 1.0], flip: 0.5, augment: colour}, "
    "whole_image: {around: [image, second_image], size: 16}}}",
    f"step={STEP}",
]
STAGES = "stages=[{share: 0.5}, {share: 0.5, learning_rate: 0.5}]"


def stopped(folder, after):
    left = iter([False] * (after - 1) + [True])
    with pytest.raises(StoppedError):
        train(load_config(overrides=[*SETTINGS, STAGES]), folder=folder, should_stop=lambda: next(left))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreeing") / "run"
    train(load_config(overrides=[*SETTINGS, STAGES]), folder=folder)
    return folder


@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, whole, after):
    folder = stopped(tmp_path / "run", after)
    checkpoint = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    assert "projector:trailing.layers.0.weight" in checkpoint.tensors["heads"]
    shutil.copytree(folder, tmp_path / "again")
    train(load_config(overrides=[*SETTINGS, STAGES]), folder=tmp_path / "again", resume=True)
    mine, theirs = (load_file(one / "model.safetensors") for one in (tmp_path / "again", whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("stages", ["stages=[{share: 0.75}, {share: 0.25, learning_rate: 0.5}]", "stages=[]"])
def test_other_stages_are_refused_on_the_way(tmp_path, stages):
    folder = stopped(tmp_path / "run", 1)
    with pytest.raises(InputError, match=r"cannot resume with other settings:\n  stages[.\w]*: the run has"):
        train(load_config(overrides=[*SETTINGS, stages]), folder=folder, resume=True)
