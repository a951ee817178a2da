"""CLIPood's loss and its average of weights against the release: every case and tolerance from the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import nn

from tether.methods.clipood import BetaMovingAverage, MarginMetricSoftmax

V = load("clipood")
CLOSE = V.meta["tolerance"]
CASES = V.meta["cases"]
RUNS = sorted(name.removesuffix("_params") for name in V.arrays if re.fullmatch(r"bma_.*_params", name))


@pytest.mark.parametrize("name", CASES)
def test_margin_metric_softmax(name: str) -> None:
    batch = name.rpartition("_")[0]
    features = torch.from_numpy(V[f"{batch}_feat"].copy()).requires_grad_()
    texts, labels = (torch.from_numpy(V[f"{batch}_{what}"].copy()) for what in ("class_text", "label"))
    settings = {"margin": float(CASES[name]["lam"]), "logit_scale": float(CASES[name]["temperature"])}
    loss = MarginMetricSoftmax(texts, **settings)(features, labels=labels)
    (grad,) = torch.autograd.grad(loss.total, features)
    np.testing.assert_allclose(loss.total.item(), V[f"{name}_loss"], **CLOSE)
    np.testing.assert_allclose(grad.numpy(), V[f"{name}_grad_feat"], **CLOSE)
    np.testing.assert_allclose(100 * loss.terms["margin_accuracy"].item(), V[f"{name}_acc"], **CLOSE)
    plain = (F.normalize(features.detach(), dim=1) @ texts.T).argmax(dim=1) == labels
    torch.testing.assert_close(loss.terms["accuracy"], plain.float().mean())


@pytest.mark.parametrize("run", RUNS)
def test_beta_moving_average(run: str) -> None:
    steps, beta = re.fullmatch(r"bma_T(\d+)_beta([0-9.]+)", run).groups()
    path = torch.from_numpy(V[f"{run}_params"].copy())
    model = nn.Module()
    model.weight = nn.Parameter(path[0].clone())
    average = BetaMovingAverage(model, total_steps=int(steps), beta=float(beta))
    np.testing.assert_allclose(average.weights.numpy(), V[f"{run}_weights"], **CLOSE)
    np.testing.assert_allclose(average.model.weight.numpy(), V[f"{run}_avg"][0], **CLOSE)
    for weights, expected in zip(path[1:], V[f"{run}_avg"][1:], strict=True):
        model.weight.data.copy_(weights)
        average.update_()
        np.testing.assert_allclose(average.model.weight.numpy(), expected, **CLOSE)
    alpha = average.weights[:, None]
    np.testing.assert_allclose(average.model.weight.numpy(), ((alpha * path).sum(0) / alpha.sum()).numpy(), **CLOSE)


def test_there_are_cases() -> None:
    assert CASES or RUNS
