"""The linear contrastive loss, its minimiser and the closed form: every batch, row and tolerance from the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.mmcl_robustness import LinearMMCL, linear_mmcl_loss, theory_accuracy

V = load("mmcl-robustness")
CLOSE = V.meta["tolerance"]
BATCHES = sorted(name.removesuffix("_x_img") for name in V.arrays if name.endswith("_x_img"))


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


@pytest.mark.parametrize("batch", BATCHES)
def test_loss_and_gradients(batch: str) -> None:
    weights = [tensor(f"{batch}_W_{side}").requires_grad_() for side in ("img", "txt")]
    loss = linear_mmcl_loss(
        tensor(f"{batch}_x_img"),
        text=tensor(f"{batch}_x_txt"),
        image_weights=weights[0],
        text_weights=weights[1],
        rho=float(V[f"{batch}_rho"]),
    )
    np.testing.assert_allclose(loss.item(), V[f"{batch}_loss"], **CLOSE)
    for side, grad in zip(("img", "txt"), torch.autograd.grad(loss, weights), strict=True):
        np.testing.assert_allclose(grad.numpy(), V[f"{batch}_grad_W_{side}"], **CLOSE)


@pytest.mark.parametrize("batch", BATCHES)
def test_minimiser(batch: str) -> None:
    rho, rank = float(V[f"{batch}_rho"]), len(V[f"{batch}_W_img"])
    fitted = LinearMMCL(rank=rank, rho=rho).fit(V[f"{batch}_x_img"], V[f"{batch}_x_txt"])
    np.testing.assert_allclose(fitted.cross_cov_, V[f"{batch}_cross_cov"], **CLOSE)
    np.testing.assert_allclose(fitted.G_, V[f"{batch}_minimiser"], **CLOSE)
    np.testing.assert_allclose(fitted.loss_, V[f"{batch}_min_value"], **CLOSE)
    reached = linear_mmcl_loss(
        tensor(f"{batch}_x_img"),
        text=tensor(f"{batch}_x_txt"),
        image_weights=torch.from_numpy(fitted.image_encoder_.T.copy()),
        text_weights=torch.from_numpy(fitted.text_encoder_.T.copy()),
        rho=rho,
    )
    np.testing.assert_allclose(reached.item(), V[f"{batch}_min_value"], **CLOSE)


@pytest.mark.parametrize("row", range(len(V["grid"]) if "grid" in V else 0))
def test_closed_form(row: int) -> None:
    p, sigma_core, sigma_cue = V["grid"][row].tolist()
    found = theory_accuracy(p, sigma_core=sigma_core, sigma_cue=sigma_cue)
    for name in ("minority", "majority", "ood", "id"):
        np.testing.assert_allclose(getattr(found, name), V[f"acc_{name}"][row], **CLOSE)


def test_there_are_cases() -> None:
    assert BATCHES or "grid" in V
