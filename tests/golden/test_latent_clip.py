"""Rewards, regulariser, gradients and the whole path of a noise through ReNO's loop, against the figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.core.types import Features
from tether.methods.latent_clip import NormRegularizer, PromptReward, optimize_noise

V = load("latent-clip")
HYPER = V.meta["hyper"]
CLOSE = {"rtol": float(V.meta["tolerance"]), "atol": float(V.meta["tolerance"])}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


class FlatImages(nn.Module):
    """The file's image side: latents flattened, times W."""

    logit_scale = torch.tensor(math.exp(float(HYPER["log_scale"])), dtype=torch.float64)

    def encode_image(self, image: torch.Tensor) -> Features:
        return Features(image.flatten(1) @ tensor("W"))


def optimizer() -> dict[str, object]:
    if HYPER["optim"] != "sgd":
        return {"name": HYPER["optim"], "lr": float(HYPER["lr"])}
    rule = "nesterov" if HYPER["nesterov"] else "heavy_ball"
    momentum = float(HYPER.get("momentum", 0.9))
    return {"name": "sgd", "lr": float(HYPER["lr"]), "momentum": momentum, "momentum_rule": rule}


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    z0, matrix = tensor("z0"), tensor("A")
    return optimize_noise(
        lambda z: torch.tanh(z.flatten(1) @ matrix).view_as(z),
        rewards=[PromptReward(FlatImages(), tensor("T"), weight=float(HYPER["weighting"]))],
        z0=z0,
        steps=int(HYPER["n_iters"]),
        optimizer=optimizer(),
        grad_clip=float(HYPER["grad_clip"]),
        regularizer=NormRegularizer(weight=float(HYPER["reg_weight"])),
        images="together",
    )


def test_losses(found) -> None:
    rewards = [step.rewards[0].item() for step in found.history]
    np.testing.assert_allclose(rewards, V["reward_loss"], **CLOSE)
    np.testing.assert_allclose([step.regularizer.item() for step in found.history], V["reg"], **CLOSE)


def test_path_of_the_noise(found) -> None:
    np.testing.assert_allclose([step.grad_norm.item() for step in found.history], V["grad_norm"], **CLOSE)
    path = torch.stack([step.z for step in found.history])
    np.testing.assert_allclose(path.numpy(), V["traj"], **CLOSE)


def test_best_is_kept(found) -> None:
    best = int(V.meta["best"])
    assert found.step.item() == best
    np.testing.assert_allclose(found.z.numpy(), V["traj"][best], **CLOSE)
