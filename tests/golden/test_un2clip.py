"""Noise schedule, targets and the encoder's gradient through a frozen denoiser, against the figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.methods.un2clip.noise_schedule import NoiseSchedule

V = load("un2clip")
HYPER = V.meta["hyper"]
TOLERANCE = float(V.meta["tolerance"])
CLOSE = {"rtol": TOLERANCE, "atol": TOLERANCE}
SCHEDULE = {
    "betas": (float(HYPER["beta_start"]), float(HYPER["beta_end"])),
    "timesteps": int(HYPER["timesteps"]),
}
OBJECTIVES = [name for name in ("eps", "v") if f"loss_{name}" in V]


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


class Toy(nn.Module):
    """The file's frozen network."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return x @ tensor("D1") + cond @ tensor("D2") + (t.double() / SCHEDULE["timesteps"])[:, None] * tensor("D3")


def test_schedule() -> None:
    schedule = NoiseSchedule(kind=HYPER["schedule"], **SCHEDULE)
    np.testing.assert_allclose(schedule.alphas_cumprod.numpy(), V["alphas_cumprod"], **CLOSE)
    x, noise, t = (tensor(name) for name in ("x", "eps", "t"))
    np.testing.assert_allclose(schedule.noised(x, noise, t).numpy(), V["xt"], **CLOSE)
    np.testing.assert_allclose(schedule.target(x, noise, t, objective="v").numpy(), V["v"], **CLOSE)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_of_the_encoder(objective: str) -> None:
    x, encoder = tensor("x"), tensor("We").requires_grad_()
    denoiser = ConditionalDenoiser(
        encoder.shape[1],
        shape=(x.shape[1],),
        objective=objective,
        schedule=HYPER["schedule"],
        rows="raw",
        network=Toy(),
        **SCHEDULE,
    )
    loss = denoiser.loss(x, x @ encoder, t=tensor("t"), noise=tensor("eps"))
    loss.backward()
    np.testing.assert_allclose(loss.item(), V[f"loss_{objective}"], **CLOSE)
    np.testing.assert_allclose(encoder.grad.numpy(), V[f"grad_{objective}"], **CLOSE)


def test_there_are_cases() -> None:
    assert OBJECTIVES
