"""The kernel, similarity, losses and gradients of Geodesic CLIP against its released code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.generation.edit import DirectionalLoss, StabilityLoss
from tether.losses import GeodesicSimilarity, geodesic_kernel
from tether.losses.flow_kernel import _complement, _subspace

V = load("geodesic-morph")
CASES = list(enumerate(V.meta["hyper"]))


def array(name: str, *, learnt: bool = False) -> Tensor:
    return torch.from_numpy(np.array(V[name])).requires_grad_(learnt)


def spread(case: int) -> float:
    return float(np.ptp(V[f"fit{case}"], axis=0).max()) + 1e-4


def need_the_same_complement(case: int, dim: int) -> None:
    """Where rounding errors chose the dimensions outside of x's subspace, other processors choose others."""
    x, kernel = array(f"x{case}"), array(f"G{case}").double()
    k = len(x) if len(x) <= 2 else min(128, len(x) - 2)
    ours = _subspace(x, k)
    both = torch.cat([ours, _complement(ours)[:, :dim]], dim=1)
    if dim < x.shape[1] - k and k > 2 and (both @ (both.T @ kernel) - kernel).abs().max() > 1e-4:
        pytest.skip("LAPACK chooses other dimensions here than where the vectors were made")


@pytest.mark.parametrize(("case", "hyper"), CASES)
def test_kernel_and_similarity_with_the_releases_noise_and_without(case: int, hyper: dict[str, Any]) -> None:
    need_the_same_complement(case, hyper["dim"])
    x, y = array(f"x{case}"), array(f"y{case}")
    for seed, wanted in enumerate(V[f"fit{case}"]):
        noise = torch.Generator().manual_seed(seed)
        np.testing.assert_allclose(GeodesicSimilarity(hyper["dim"], noise=noise)(x, y), wanted, atol=1e-6)
    np.testing.assert_allclose(GeodesicSimilarity(hyper["dim"])(x, y), V[f"fit{case}"].mean(0), atol=spread(case))
    first = geodesic_kernel(x, y, dim=hyper["dim"], noise=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(first, V[f"G{case}"], atol=1e-5)
    np.testing.assert_allclose(geodesic_kernel(x, y, dim=hyper["dim"]), V[f"G{case}"], atol=1e-3)
    np.testing.assert_allclose(torch.cosine_similarity(x, y), V[f"cosine{case}"], atol=1e-6)


@pytest.mark.parametrize(("case", "hyper"), CASES)
def test_losses_and_gradients(case: int, hyper: dict[str, Any]) -> None:
    need_the_same_complement(case, hyper["dim"])
    x, y, nothing = array(f"x{case}", learnt=True), array(f"y{case}"), torch.zeros(1, hyper["D"])
    loss = DirectionalLoss("geodesic", dim=hyper["dim"])(x, y, source=nothing, source_text=torch.zeros_like(y))
    np.testing.assert_allclose(loss.item(), V[f"inter_loss{case}"], atol=spread(case))
    loss.backward()
    assert x.grad is not None
    wanted = array(f"inter_grad_x{case}").flatten()
    assert torch.cosine_similarity(x.grad.flatten(), wanted, dim=0) > 0.999
    np.testing.assert_allclose(x.grad.flatten(), wanted, atol=1e-4)
    still = StabilityLoss(x.detach(), dim=hyper["dim"])(x)
    np.testing.assert_allclose(still.item(), V[f"intra_loss{case}"], atol=1e-6)
    np.testing.assert_allclose(torch.autograd.grad(still, x)[0], V[f"intra_grad{case}"], atol=1e-6)
