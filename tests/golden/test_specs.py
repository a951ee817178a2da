"""The three terms, the margin that follows them, the score and the increments against the released code."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.methods.specs import SpecsLoss
from tether.methods.specs.evaluation import increment_rates, specs_score

V = load("specs")
CLOSE = V.meta["tolerance"]
SIDES = ("img", "cap", "base", "detail", "neg")
BATCHES = sorted({name.split("_")[0] for name in V.arrays if re.fullmatch(r"b\d+_img", name)})


def close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, **CLOSE)


def calls(case: str) -> list[str]:
    """The calls of one calculator, in order."""
    found = [name.removesuffix("_loss") for name in V.arrays if re.fullmatch(rf"{re.escape(case)}\d+_loss", name)]
    return sorted(found, key=lambda name: int(name.removeprefix(case)))


@pytest.mark.parametrize("case", V.meta["cases"])
def test_terms_margin_and_gradients(case: str) -> None:
    settings, batch = V.meta["cases"][case], case.split("_")[0]
    margin = float(settings["epsilon"])
    loss = SpecsLoss(
        lambda_contrast=float(settings["lambda_contrast"]),
        lambda_detail=float(settings["lambda_details"]),
        lambda_neg=float(settings["lambda_neg"]),
        margin=margin or None,  # the release takes 0 for adaptive
    )
    assert calls(case)
    for call in calls(case):
        close(loss.state_dict()["margin"], V[f"{call}_eps_in"])
        leaves = {}
        for side in SIDES:
            name = f"{call}_in_{side}" if f"{call}_in_{side}" in V else f"{batch}_{side}"
            leaves[side] = torch.from_numpy(V[name].copy()).requires_grad_()
        terms = loss(
            leaves["img"],
            caption=leaves["cap"],
            base=leaves["base"],
            detail=leaves["detail"],
            neg=leaves["neg"],
            logit_scale=torch.tensor(float(V[f"{batch}_scale"]), dtype=torch.float64),
        )
        for ours, theirs in (
            (terms.total, "loss"),
            (terms.contrast, "contrastive"),
            (terms.detail, "detail"),
            (terms.negative, "neg"),
            (terms.margin, "eps_out"),
        ):
            close(ours, V[f"{call}_{theirs}"])
        grads = torch.autograd.grad(terms.total, tuple(leaves.values()))
        for side, grad in zip(leaves, grads, strict=True):
            close(grad, V[f"{call}_grad_{side}"])


@pytest.mark.parametrize("batch", BATCHES)
def test_score(batch: str) -> None:
    img, cap = (torch.from_numpy(V[f"{batch}_{side}"]) for side in ("img", "cap"))
    if f"{batch}_score" in V:
        score = specs_score(img, cap, pairs="all")
        close(score, V[f"{batch}_score"])
        torch.testing.assert_close(specs_score(img, cap), score.diagonal())


def test_increments() -> None:
    if "inc_sim" not in V:
        pytest.skip("this file has no increments")
    sim = torch.from_numpy(V["inc_sim"])
    empty = len(V["inc_pos"]) == 0
    with pytest.warns(UserWarning, match="NaN") if empty else contextlib.nullcontext():
        found = increment_rates(sim[..., 0], neg_sim=sim[..., 1], mask=sim[..., 0] > 0)
    close(found.each_positive, V["inc_pos"])
    close(found.each_negative, V["inc_neg"])
    if not empty:
        np.testing.assert_allclose(found.positive, V["inc_pos"].mean(), **CLOSE)
        np.testing.assert_allclose(found.negative, V["inc_neg"].mean(), **CLOSE)
