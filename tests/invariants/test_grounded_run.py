"""Runs with a decoder of regions go on as if they had never stopped, and save a model with the decoder or without."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import tether
from tether.core.errors import InputError, StoppedError
from tether.models import create
from tether.models.composed.encoder import ComposedEncoder
from tether.models.heads.grounded import ground
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics

COMMON = [
    "data={name: scenes, rows: 64, things: [1, 2]}",
    "size=tiny",
    "model={image_size: 64}",
    "batch_size=8",
    "accumulate=2",
    "micro_batch=5",
    "steps=4",
    "precision=fp32",
    "vocabulary=used",
    "ema=0.9",
    "threads=1",
    "contents={regions: {most: 3, phrases: phrases, unit: pixel}}",
]
KEPT = (
    "step={views: {image: {want: states}, text: {}, region_text: {}}, terms: [{name: grounding, aux: true, "
    "duplicates: once}], heads: {grounding: {name: grounding, queries: 3, layers: 2, width: 32, heads: 4, inner: 32, "
    "saved: kept}}}"
)
DROPPED = KEPT.replace("saved: kept", "saved: dropped").replace("terms: [", "terms: [objective, ")
PARTS = ("clip", "l1", "giou", "desc", "iou", "accuracy")


@pytest.mark.parametrize("step", [KEPT, DROPPED], ids=["kept", "dropped"])
def test_a_stopped_run_goes_on_bit_for_bit(step, tmp_path):
    config = load_config(overrides=[*COMMON, step])
    train(config, folder=tmp_path / "whole")
    seen = []

    def stop():
        seen.append(None)
        return len(seen) == 2

    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "parts", should_stop=stop)
    assert not isinstance(tether.load(tmp_path / "parts"), ComposedEncoder)  # a checkpoint is the model alone
    heads = load_checkpoint(list_checkpoints(tmp_path / "parts" / "checkpoints")[-1]).tensors["heads"]
    assert any(name.startswith("grounding.decoder") for name in heads)
    train(config, folder=tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    for key in ("loss", *PARTS):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]]
    model, image = tether.load(tmp_path / "whole"), torch.rand(2, 3, 64, 64)
    if step is KEPT:
        assert ground(model, image).boxes.shape == (2, 3, 4)
    else:
        assert not any("decoder" in name for name in model.state_dict())


def test_the_best_evaluation_is_of_the_model_that_is_saved(tmp_path):
    config = load_config(overrides=[*COMMON, KEPT, "evaluate={source: {name: scenes, rows: 8}, every: 1, best: x}"])
    scores = iter([1.0, 3.0, 2.0, 0.0])
    measured = []

    def evaluate(model):
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"x": next(scores)}

    train(config, folder=tmp_path / "run", evaluate=evaluate)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in measured[1].items())
    assert any("decoder" in name for name in saved)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("want: states", "want: pooled"), "expected want: states"),
        (("want: states", "want: states, crop: 0.5"), "no crop of its own"),
        (("duplicates: once", "regions: second_regions"), "expected 'second_regions' with phrases"),
        (("heads: 4", "heads: 5"), "heads"),
    ],
)
def test_what_does_not_fit_is_refused(change, why, tmp_path):
    with pytest.raises(InputError, match=why):
        train(load_config(overrides=[*COMMON, KEPT.replace(*change)]), folder=tmp_path / "run")


def test_a_model_that_cannot_be_put_behind_a_decoder_is_refused_at_the_start(tmp_path):
    tether.save(create("tiny", towers="shared"), tmp_path / "shared")
    settings = [one for one in COMMON if not one.startswith("model=")]
    settings += [f"model={{load: {tmp_path / 'shared'}}}", KEPT]
    with pytest.raises(InputError, match="share their blocks"):
        train(load_config(overrides=[one for one in settings if "vocabulary=used" not in one]), folder=tmp_path / "run")
