"""QualiCLIP: the loss of a ladder, the score of prompt pairs, and ARNIQA's degradations, against stored figures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.methods.qualiclip import DEGRADATIONS, degrade, quality_ranking_loss
from tether.models.texts.prompt_quality import prompt_quality

V = load("qualiclip")
TOLERANCE = V.meta["tolerance"]
CLOSE = {"rtol": TOLERANCE["rtol"], "atol": TOLERANCE["atol"]}
IMAGES = {name for name in V.arrays if re.fullmatch(r"dist_\w+_\d", name)}


def given(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


@pytest.mark.parametrize("case", list(V.meta["cases"]))
def test_loss_and_gradient(case: str) -> None:
    size = case.split("_")[0]
    feat = given(f"{size}_feat").requires_grad_()
    loss = quality_ranking_loss(feat, *given(f"{size}_prompts"), **V.meta["cases"][case])
    for name in ("cons", "pos", "neg"):
        np.testing.assert_allclose(loss.terms[name], V[f"{case}_{name}"], **CLOSE)
    np.testing.assert_allclose(loss.total.item(), V[f"{case}_total"], **CLOSE)
    loss.total.backward()
    assert feat.grad is not None
    np.testing.assert_allclose(feat.grad, V[f"{case}_grad_feat"], **CLOSE)


def test_score() -> None:
    np.testing.assert_allclose(prompt_quality(given("score_img"), given("score_prompts")), V["score"], **CLOSE)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_degradation(name: str) -> None:
    _, kind, level = name.split("_")
    angle = float(V.meta["motion_angle"])
    found = degrade(given("dist_input"), kind, int(level), angle=angle, match_official=True)
    off = (found - given(name)).abs()
    assert off.max() <= 1 / 255 + TOLERANCE["dist_atol"]  # a pixel between two levels goes to one or the other
    assert (off > TOLERANCE["dist_atol"]).float().mean() < 0.01


def test_levels() -> None:
    for kind, strengths in V.meta["levels"].items():
        assert list(DEGRADATIONS[kind].strengths) == strengths
    assert {f"dist_{kind}_{level}" for kind in V.meta["levels"] for level in range(1, 6)} == IMAGES
