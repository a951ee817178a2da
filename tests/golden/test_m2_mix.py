"""The geodesic mix, every mixed term with its gradients, and relative alignment, against the figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.evaluate.geometry import relative_alignment, uniformity
from tether.methods.m2_mix import m2_mix_loss
from tether.methods.m2_mix.hard_contrastive import hard_contrastive_loss
from tether.methods.m2_mix.loss import geodesic_mix

V = load("m2-mix")
CLOSE = V.meta["tolerance"]
BATCHES = sorted({name.split("_")[0] for name in V.meta["cases"]})
NAMES = {"v": "vmix", "l": "lmix", "vl": "vlmix", "m2": "mmmix"}
"""Ours and the release's, in the order in which it draws shares for the terms that have a weight."""


def leaf(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy()).requires_grad_()


def settings(case: dict, lam: np.ndarray) -> dict:
    shares = iter(lam.tolist())
    active = {ours: float(case.get(theirs, 0.0)) for ours, theirs in NAMES.items()}
    return {
        **active,
        "lam": tuple(next(shares) if weight else 0.5 for weight in active.values()),
        "scale": 1 / case.get("tau", 0.01),
        "scale_m2": 1 / (case.get("tau2", 0.07) if case.get("sep_scale", True) else case.get("tau", 0.01)),
        "negatives": "original" if case.get("original_neg") else "mixed",
    }


@pytest.mark.parametrize("name", [name for name in sorted(V.meta["cases"]) if f"{name}_loss" in V])
def test_mixed_terms_and_gradients(name: str) -> None:
    batch = name.split("_")[0]
    image, text = leaf(f"{batch}_img"), leaf(f"{batch}_txt")
    mix = m2_mix_loss(image, text, **settings(V.meta["cases"][name], V[f"{batch}_lam"])).mix
    np.testing.assert_allclose(mix.item(), V[f"{name}_loss"], **CLOSE)
    for side, grad in zip(("img", "txt"), torch.autograd.grad(mix, (image, text)), strict=True):
        np.testing.assert_allclose(grad.numpy(), V[f"{name}_grad_{side}"], **CLOSE)


@pytest.mark.parametrize("batch", BATCHES)
def test_hard_contrastive_baseline(batch: str) -> None:
    loss = hard_contrastive_loss(leaf(f"{batch}_img"), leaf(f"{batch}_txt")).mean()
    np.testing.assert_allclose(loss.item(), V[f"{batch}_hcl_loss"], **CLOSE)


@pytest.mark.parametrize("batch", BATCHES)
def test_geodesic_mix(batch: str) -> None:
    for place, lam in enumerate(V[f"{batch}_lam"]):
        if f"{batch}_slerp{place}" in V:
            mixed = geodesic_mix(leaf(f"{batch}_img"), leaf(f"{batch}_txt"), lam=float(lam))
            np.testing.assert_allclose(mixed.detach().numpy(), V[f"{batch}_slerp{place}"], **CLOSE)


@pytest.mark.parametrize("batch", BATCHES)
def test_relative_alignment_and_uniformity(batch: str) -> None:
    image, text = leaf(f"{batch}_img").detach(), leaf(f"{batch}_txt").detach()
    if f"{batch}_rel_align" in V:
        np.testing.assert_allclose(relative_alignment(image, text).item(), V[f"{batch}_rel_align"], **CLOSE)
    if f"{batch}_unif_img" in V:
        np.testing.assert_allclose(
            uniformity(image).item(), V[f"{batch}_unif_img"], rtol=1e-5
        )  # float32 in the release
