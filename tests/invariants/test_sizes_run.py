"""A run whose images and texts grow on the way goes on from the border as if it had never stopped."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

import tether
from tether.core.errors import StoppedError
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*were cut")
TAUGHT = (
    "{views: {image: {patches: {name: attentive, pool: 1}}, text: {}}, teacher: {ema: {momentum: 0.5}}, "
    "terms: [objective]}"
)
SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=12",
    "steps=6",
    "precision=fp32",
    "ema=0.5",
    "vocabulary=used",
    "threads=1",
    "optimizer={name: adamw, lr: 1.0e-3}",
    f"step={TAUGHT}",
    "stages=[{steps: 3, image_size: 16, context: 9, caption: {name: shortened, context: 9}, schedule: cosine}, "
    "{steps: 3, how: [sincos, linear], schedule: {name: constant}, learning_rate: 0.1, image_size: 32, context: 24}]",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes") / "run"
    train(load_config(overrides=SETTINGS), folder=folder)
    return folder


@pytest.mark.parametrize("after", [2, 3, 4])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, whole, after):
    left = iter([False] * (after - 1) + [True])
    with pytest.raises(StoppedError):
        train(load_config(overrides=SETTINGS), folder=tmp_path / "run", should_stop=lambda: next(left))
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert checkpoint.tensors["model"]["visual.position"].shape[0] == (5 if after < 4 else 17)
    assert checkpoint.tensors["teacher"]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    train(load_config(overrides=SETTINGS), folder=tmp_path / "again", resume=True)
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "again", whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_each_stage_has_its_rate_and_the_model_the_last_sizes(whole):
    rates = [record["lr"] for record in read_metrics(whole / "metrics.jsonl")]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3, 1e-4, 1e-4, 1e-4])
    model = tether.load(whole)
    assert model.image_spec.size == (32, 32)
    assert model.tokenizer.context_length == 24
    assert model.encode_text(model.tokenizer(["a red heart"])).pooled.isfinite().all()
