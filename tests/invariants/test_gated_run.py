"""A run with gates goes on from a checkpoint as if it had never stopped: the controllers' state is in it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tether.train import load_config, train
from tether.train.checkpoints import list_checkpoints, load_checkpoint
from tether.train.metrics_log import read_metrics
from tether.train.run import StoppedError

SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=16",
    "accumulate=2",
    "micro_batch=8",
    "steps=6",
    "precision=fp32",
    "model={vision: {layers: 4, gate: mirror, block: {preset: skip_middle}}, text: {gate: mirror}}",
    "step={name: skip_middle, rule: proportional_derivative, end: 0.3, gain: 20.0, dead_zone: 0.0, keep_patches: 0.5}",
    "vocabulary=used",
    "threads=1",
]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    config = load_config(overrides=SETTINGS)
    train(config, folder=tmp_path / "whole")
    seen = []

    def stop():
        seen.append(None)
        return len(seen) == 3

    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "parts", should_stop=stop)
    state = load_checkpoint(list_checkpoints(tmp_path / "parts" / "checkpoints")[-1]).state["step"]
    assert sorted(state["controllers"]) == ["image", "text"]
    assert state["controllers"]["image"]["mean"]["weight"].any()
    train(config, folder=tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    for key in ("loss", "image_gate_penalty", "text_gate"):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]]
    assert records[0][-1]["image_gate_penalty"] != 0
