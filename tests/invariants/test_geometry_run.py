"""Runs of a hyperbolic model, and of SPECS, go on from a checkpoint as if they had never stopped."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics
from tether.training.run import StoppedError

COMMON = [
    "data={name: scenes, rows: 24, things: [1, 1], captions: long}",
    "size=tiny",
    "batch_size=8",
    "accumulate=2",
    "micro_batch=4",
    "steps=4",
    "precision=fp32",
    "vocabulary=used",
    "threads=1",
]
HYPERBOLIC = [
    "model={geometry: hyperbolic, final_layernorm: drop, image_size: 64, context: 64}",
    "objective={name: geometry, entailment_weight: 0.2, final_min_radius: 0.3}",
]
SPECS = ["model={image_size: 64, context: 64}", "step={name: specs}"]


@pytest.mark.parametrize(
    ("settings", "logged"), [(HYPERBOLIC, ("curvature", "entailment")), (SPECS, ("margin", "detail", "with_detail"))]
)
def test_a_stopped_run_goes_on_bit_for_bit(settings, logged, tmp_path):
    config = load_config(overrides=[*COMMON, *settings])
    train(config, folder=tmp_path / "whole")
    seen = []

    def stop():
        seen.append(None)
        return len(seen) == 2

    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "parts", should_stop=stop)
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "parts" / "checkpoints")[-1])
    assert ("details" in checkpoint.state["step"]) == (settings is SPECS)
    train(config, folder=tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    for key in ("loss", *logged):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]]
    if settings is HYPERBOLIC:
        assert whole["log_curvature"] != 0
