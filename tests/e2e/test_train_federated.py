"""``tether train --recipe federated``: from labelled images to a head that ``tether classify`` takes."""

from __future__ import annotations

import json
from pathlib import Path

import tether
from tether.adaptation.heads import load_head
from tether.models import create

SETTINGS = ("fit.clients=2", "fit.rounds=3", "fit.batch_size=16", "fit.noise_seed=0")


def test_sites_learn_a_head_by_the_recipe(tmp_path: Path, call) -> None:
    model = tether.save(create("tiny", seed=3), tmp_path / "model")
    out = tmp_path / "head"
    done = call("train", "digits", "--recipe", "federated", "--from", model, "--out", out, *SETTINGS)
    assert "epsilon" in done.out
    head = load_head(out, model=tether.load(model))
    assert len(head.classes) == 10
    assert json.loads((out / "report.json").read_text())["privacy"]["epsilon"] > 0
    dry = call("train", "digits", "--recipe", "federated", "--from", model, "--out", out, "--dry-run", *SETTINGS)
    assert "no steps to rehearse" in dry.out
    refused = {
        "fit.loss=clip": "is over pairs: the loss of one sample depends on the others",
        "fit.noise_multiplier=9": "outweighs",
        "steps=3": "a head is learnt with the settings of its recipe",
    }
    for setting, message in refused.items():
        given = ("train", "digits", "--recipe", "federated", "--from", model, "--out", tmp_path / "none", setting)
        if setting == "fit.noise_multiplier=9":
            given, message = (*given, "fit.count_std=2"), "expected less than twice count_std"
        assert message in " ".join(call(*given, code=2).err.split())
    resumed = call("train", "digits", "--recipe", "federated", "--out", tmp_path / "none", "--resume", code=2)
    assert "learns a head without any" in " ".join(resumed.err.replace("│", " ").split())
