"""Clipped logits, loss and gradient against the figures: every case, setting and tolerance from the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load

from tether.methods.logitclip import LogitClipLoss, clip_logits, cross_entropy_bounds

V = load("logitclip")
CLOSE = V.meta["tolerance"]
CASES = list(enumerate(V.meta["cases"]))
cases = pytest.mark.parametrize(("place", "case"), CASES, ids=[f"c{place}" for place, _ in CASES])


def settings(case: dict) -> dict[str, float]:
    return {"tau": float(case["tau"]), "p": float(case["p"])}


def leaf() -> torch.Tensor:
    return torch.from_numpy(V["logits"].copy()).requires_grad_()


@cases
def test_clipped(place: int, case: dict) -> None:
    got = clip_logits(leaf(), **settings(case))
    np.testing.assert_allclose(got.detach().numpy(), V[f"c{place}.clipped"], **CLOSE)


@cases
def test_loss_and_gradient(place: int, case: dict) -> None:
    logits, targets = leaf(), torch.from_numpy(V["targets"].copy())
    loss = LogitClipLoss(base_loss=F.cross_entropy, **settings(case))(logits, targets)
    (grad,) = torch.autograd.grad(loss, logits)
    np.testing.assert_allclose(loss.item(), V[f"c{place}.loss"], **CLOSE)
    np.testing.assert_allclose(grad.numpy(), V[f"c{place}.grad"], **CLOSE)
    if f"c{place}.official_loss" in V:
        np.testing.assert_allclose(loss.item(), V[f"c{place}.official_loss"], **CLOSE)


@cases
def test_bounds(place: int, case: dict) -> None:
    logits, targets = leaf().detach(), torch.from_numpy(V["targets"].copy())
    bounds = cross_entropy_bounds(logits.shape[1], tau=settings(case)["tau"])
    if f"c{place}.ce_bounds" in V:
        np.testing.assert_allclose(bounds, V[f"c{place}.ce_bounds"], **CLOSE)
    each = LogitClipLoss(base_loss=lambda z, y: F.cross_entropy(z, y, reduction="none"), **settings(case))
    losses = each(logits, targets)
    assert ((losses >= bounds.least - CLOSE["atol"]) & (losses <= bounds.most + CLOSE["atol"])).all()


@cases
def test_the_released_rescaling_is_not_followed(place: int, case: dict) -> None:
    if f"c{place}.official_code_loss_temp_eq_tau" not in V or settings(case)["tau"] == 1:
        pytest.skip("the released code agrees with the paper here, or was not run")
    logits = leaf().detach()
    if torch.equal(clip_logits(logits, **settings(case)), logits):
        pytest.skip("no row is long enough to be clipped")
    loss = LogitClipLoss(**settings(case))(logits, torch.from_numpy(V["targets"].copy()))
    assert abs(loss.item() - float(V[f"c{place}.official_code_loss_temp_eq_tau"])) > 100 * CLOSE["atol"]
