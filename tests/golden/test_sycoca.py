"""Scores, chosen patches, and the error of rebuilt ones with its gradient, against the figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.sycoca.masked_patches import attentive_select, masked_patch_loss

V = load("sycoca")
TOLERANCE = {name: float(value) for name, value in V.meta["tolerance"].items()}


def tensor(name: str, dtype: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy()).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_score_and_choice(dtype: str) -> None:
    drop, mask = float(V["ic_ratio"]), float(V["mim_ratio"])
    found = attentive_select(tensor("patch", dtype), tensor("text", dtype), drop=drop, mask=mask)
    np.testing.assert_allclose(found.score.numpy(), V["score"], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert np.array_equal(found.keep.numpy(), V["ic_keep"])
    assert np.array_equal(found.masked.numpy(), V["mim_masked"])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_error_of_rebuilt_patches(dtype: str) -> None:
    predicted = tensor("pred", dtype).requires_grad_()
    loss = masked_patch_loss(predicted, tensor("target", dtype), torch.from_numpy(V["mim_masked"].copy()))
    loss.backward()
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(loss.item(), V["mim_loss"], **close)
    np.testing.assert_allclose(predicted.grad.numpy(), V["mim_grad_pred"], **close)
