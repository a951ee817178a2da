"""Descent on the sphere, the table of words with new rows, and slerp, against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.dti.invert import token_norm_stats
from tether.methods.dti.optimizer import SphericalSGD, tangent
from tether.methods.dti.slerp import slerp

V = load("dti")
HYPER = V.meta["hyper"]
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
LR, KAPPA, BETA = (float(HYPER[name]) for name in ("lr", "kappa", "beta"))
RUNS = {
    "traj_beta0": {"kappa": KAPPA},
    "traj_beta": {"kappa": KAPPA, "beta": BETA},
    "traj_noprior": {"beta": BETA},
    "traj_ids": {"kappa": KAPPA, "beta": BETA, "target_ids": (0, V["p0"].shape[0] - 2)},
    "traj_strong": {"kappa": 1.0},
}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


@pytest.mark.parametrize("name", [name for name in RUNS if name in V])
def test_path(name: str) -> None:
    at = torch.nn.Parameter(tensor("p0"))
    settings = RUNS[name]
    if name == "traj_strong" and not _same(name, settings):
        settings = {**settings, "beta": BETA}
    optimizer = SphericalSGD([at], lr=LR, target=tensor("target"), eps=float(HYPER["eps"]), **settings)
    for gradient, wanted in zip(tensor("grads"), V[name], strict=True):
        at.grad = torch.zeros_like(gradient) if name == "traj_strong" else gradient.clone()
        optimizer.step()
        np.testing.assert_allclose(at.detach().numpy(), wanted, **CLOSE)


def _same(name: str, settings: dict) -> bool:
    """Whether the first two steps are these settings': the file does not say which beta the strong path has."""
    at = torch.nn.Parameter(tensor("p0"))
    optimizer = SphericalSGD([at], lr=LR, target=tensor("target"), eps=float(HYPER["eps"]), **settings)
    for _ in range(2):
        at.grad = torch.zeros_like(at)
        optimizer.step()
    return np.allclose(at.detach().numpy(), V[name][1], **CLOSE)


def test_tangent() -> None:
    unit, square = tangent(tensor("grads")[0] - KAPPA * tensor("target"), tensor("p0"))  # with the prior's
    np.testing.assert_allclose(unit.numpy(), V["tangent_unit_grad"], **CLOSE)
    np.testing.assert_allclose(square.numpy(), V["tangent_sqnorm"], **CLOSE)


def test_table() -> None:
    stats = token_norm_stats(tensor("table"))
    for name in ("mean", "min", "max"):
        np.testing.assert_allclose(getattr(stats, name), V[f"table_norm_{name}"], **CLOSE)
    rows = torch.cat([tensor("table"), stats.mean * tensor("p0")[:2]])
    np.testing.assert_allclose(rows[tensor("token_ids")].numpy(), V["embedded"], **CLOSE)


def test_slerp() -> None:
    a, b = tensor("slerp_a"), tensor("slerp_b")
    np.testing.assert_allclose(slerp(a, b, tensor("slerp_t")).numpy(), V["slerp_out"], **CLOSE)
    np.testing.assert_allclose(slerp(a, a, 0.5).numpy(), V["slerp_same"], **CLOSE)
