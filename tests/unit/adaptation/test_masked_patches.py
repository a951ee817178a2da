"""The edit that hides what views leave out, and FIX-CLIP's two branches as a run's settings."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

import tether
from tether.adaptation.finetune import MaskedPatches
from tether.core.errors import InputError, StoppedError
from tether.models import create
from tether.models.features.dense import dense_image
from tether.models.towers.vision.masked_patches import mask_patches_
from tether.training import load_config, train
from tether.training.metrics_log import read_metrics
from tether.workflows.edits import EDITS

KEEP = torch.tensor([[0, 3, 5, 6], [1, 2, 9, 15], [4, 7, 8, 10]])
HIDDEN = torch.ones(3, 16, dtype=torch.bool).scatter(1, KEEP, False)


@pytest.mark.parametrize("eva", [False, True])
def test_what_is_not_kept_is_hidden(eva):
    settings = {"vision": {"tower": "eva", "rope_span": 4}} if eva else {}
    model, image = create("tiny", seed=1, **settings).eval(), torch.rand(3, 3, 32, 32)
    whole, other = model.encode_image(image).pooled, copy.deepcopy(model)
    masked, edit = mask_patches_(other), MaskedPatches()
    edit.apply_(model)
    with torch.no_grad():
        masked.vector.normal_()
        model.visual.patch.vector.copy_(masked.vector)
    with masked.hiding(HIDDEN):
        expected = other.encode_image(image).pooled
    found = model.encode_image(image, keep=KEEP).pooled
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(model.encode_image(image).pooled, whole)
    found.sum().backward()
    assert bool(model.visual.patch.vector.grad.any())
    with torch.no_grad():  # a copy, such as a trailing teacher, hides by its own vector
        twin = copy.deepcopy(model)
        model.visual.patch.vector.zero_()
        assert torch.equal(twin.encode_image(image, keep=KEEP).pooled, found)
    edit.merge_(model)
    dropped = create("tiny", seed=1, **settings).eval().encode_image(image, keep=KEEP).pooled
    assert torch.equal(model.encode_image(image, keep=KEEP).pooled, dropped)


def test_views_that_want_more_than_an_embedding_are_refused():
    model = MaskedPatches().apply_(create("tiny"))
    assert dense_image(model, torch.rand(3, 3, 32, 32)).tokens.shape[1] == 16
    with pytest.raises(InputError, match="want: pooled"):
        dense_image(model, torch.rand(3, 3, 32, 32), keep=KEEP)


SETTINGS = [
    "data={name: scenes, rows: 24, things: [1, 1], captions: long, size: 64}",
    "batch_size=6",
    "micro_batch=4",
    "steps=6",
    "precision=fp32",
    "threads=1",
    "ema=0.9",
    "model={load: START, resized: {context: 72, how: {name: stretch, keep: 8, ratio: 4}}}",
    "edits=[{name: kept_positions, keep: 8}, masked_patches]",
    "step={views: {image: {}, text: {}, masked: {source: image, patches: {name: random, keep: 0.25}}, "
    "short: {source: text, rewrite: first_sentence}}, "
    "terms: [{name: fix_clip, extra: {masked_image: masked, short_text: short}}]}",
]


def test_the_two_branches_are_trained_by_settings_and_resumed_bit_for_bit(tmp_path):
    tether.save(create("tiny", seed=2), tmp_path / "start")
    settings = [one.replace("START", str(tmp_path / "start")) for one in SETTINGS]
    config = load_config(overrides=settings)
    train(config, folder=tmp_path / "whole", edits=EDITS)
    seen = []

    def stop() -> bool:
        seen.append(None)
        return len(seen) == 3

    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "run", edits=EDITS, should_stop=stop)
    kept = load_file(next((tmp_path / "run" / "checkpoints").glob("step-*")) / "model.safetensors")
    assert bool(kept["visual.patch.vector"].any())
    train(config, folder=tmp_path / "run", edits=EDITS, resume=True)
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert mine.keys() == theirs.keys() == create("tiny").state_dict().keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    logs = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("run", "whole")]
    assert [[one.get(key) for one in logs[0]] for key in ("loss", "long", "short")] == [
        [one.get(key) for one in logs[1]] for key in ("loss", "long", "short")
    ]
    assert all(one["short"] > 0 for one in logs[0])
    assert tether.load(tmp_path / "run").tokenizer.context_length == 72
