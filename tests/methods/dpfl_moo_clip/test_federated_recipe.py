"""The recipe of sites that learn a head together: what it gives, where it begins, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tether
from memory_rows import squares
from tether.core.errors import InputError
from tether.losses import OBJECTIVES
from tether.methods.dpfl_moo_clip import FederatedHead
from tether.models import create

SMALL: dict[str, Any] = {
    "name": "federated",
    "clients": 2,
    "rounds": 3,
    "batch_size": 4,
    "noise_seed": 0,
    "kappa": 20.0,
}


def test_epsilon_is_in_the_report_and_the_head_begins_at_the_texts(tmp_path: Path) -> None:
    model = create("tiny", seed=0)
    done = tether.adapt(model, squares(48), recipe={**SMALL, "clip": 0.01, "learning_rate": 1e-6}, out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["privacy"]["epsilon"] > 0
    assert 0 < told["privacy"]["delta"] < 0.1
    assert done.head is not None
    with torch.no_grad():
        rows = torch.randn(5, model.dim)
        text = done.head.weight / model.logit_scale
    assert torch.allclose(text.norm(dim=1), torch.ones(len(text)), atol=1e-3)
    assert done.head.logits(rows).shape == (5, len(done.head.classes))


def test_a_fixed_norm_releases_no_count_and_spends_the_same() -> None:
    model, spent = create("tiny", seed=0), []
    for adaptive in (True, False):
        done = tether.adapt(model, squares(48), recipe={**SMALL, "adaptive": adaptive})
        spent.append(done.report.to_dict()["privacy"])
    assert spent[0]["epsilon"] == spent[1]["epsilon"]
    assert spent[1]["clip"] == 1.0 != spent[0]["clip"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": "clip"},
            "loss: expected cross_entropy; 'clip' is over pairs: the loss of one sample depends on the others",
        ),
        ({"loss": "mse"}, "loss: expected cross_entropy; got 'mse'"),
        ({"noise_multiplier": 2.0, "count_std": 1.0}, "noise_multiplier: expected less than twice count_std"),
        ({"kappa": 1.0, "target": 0.5}, "kappa, target: expected one of both"),
        ({"clients": 0}, "clients"),
        ({"clients": 10**12}, "clients"),
        ({"rounds": 10**15}, "rounds"),
        ({"noise_seed": 2**62}, "noise_seed"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    assert "clip" in OBJECTIVES
    with pytest.raises(InputError, match=message):
        FederatedHead(**settings)


def test_sites_smaller_than_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected at most the .* images of the smallest of 5 sites, got 64"):
        tether.adapt(create("tiny", seed=0), squares(48), recipe="federated")


def test_the_report_says_what_is_private_and_what_is_not() -> None:
    done = tether.adapt(create("tiny", seed=0), squares(48), recipe=SMALL)
    said = str(done)
    assert "Privacy of each image, by Opacus' accountant: epsilon" in said
    assert "under no privacy" in said
    assert "cross-validation" not in said
    assert "under no privacy" in done.report.html()
    for epsilon, weak in ((9.9, False), (30.3, True)):
        report = replace(done.report, privacy={**done.report.privacy, "epsilon": epsilon})
        assert ("promises next to nothing" in report.privately()) is weak
