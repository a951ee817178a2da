from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor, nn

from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.methods.wgan_gp.loss import clip_weights_, gradient_penalty, wgan_critic_loss
from tether.methods.wgan_gp.step import AdversarialPair, CriticStep
from tether.optim.clip import NoClip
from tether.training.loop import Player, Precision, StepReport, fit
from tether.training.schedules import Constant

V = load("wgan-gp")
CASES = V.meta["cases"]
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}


def told(array: str, pattern: str, *otherwise: float) -> tuple[float, ...]:
    """Numbers in what the file says of an array."""
    found = re.search(pattern, V.meta.get("arrays", {}).get(array, ""))
    return tuple(float(number) for number in found.groups()) if found else otherwise


RATE, *BETAS = told("traj", r"lr=(.+?), ?betas=\((.+?), ?(.+?)\)", 1e-2, 0.5, 0.9)
CLIPPED_RATE, DECAY, CLIPPED_EPS = told("wc_traj", r"lr=(.+?), ?alpha=(.+?), ?eps=(.+?)\)", 5e-3, 0.9, 1e-10)
(BOUND,) = told("wc_traj", r"\[-(.+?),", 0.1)
ADAM_EPS = 1e-8  # torch's
ZERO = 1e-12
DRIFT = RATE * 2**-54 / ADAM_EPS
"""How far Adam moves in a step by a gradient that is zero but for rounding."""
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def tensor(case: str, name: str) -> Tensor:
    return torch.from_numpy(V[case + name].copy())


def build(case: str) -> nn.Sequential:
    """The critic of a case, as deep as its ``dims`` say, with the weights that its figures belong to."""
    critic = nn.Sequential(*layers(case))
    sizes = [parameter.numel() for parameter in critic.parameters()]
    values = torch.from_numpy(first_weights(case)).split(sizes)
    with torch.no_grad():
        for parameter, value in zip(critic.parameters(), values, strict=True):
            parameter.copy_(value.view_as(parameter))
    return critic


def layers(case: str) -> list[nn.Module]:
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(CASES[case]["dims"]):
        made += [nn.Linear(before, after, dtype=torch.float64), ACTIVATIONS[CASES[case]["act"]]()]
    return made[:-1]


def stored_weights(case: str) -> np.ndarray:
    depth = range(len(CASES[case]["dims"]) - 1)
    return np.concatenate([V[f"{case}{name}{index}"].ravel() for index in depth for name in "Wb"])


@functools.cache
def first_weights(case: str) -> np.ndarray:
    """The weights before the first step.

    The file's weights went along with the optimiser: they equal the LAST row of ``traj`` (and ``wc_traj`` goes on from
    there), while slopes, loss and gradients belong to the weights BEFORE the first. Where that is so, the first step
    of Adam is undone: it moved each weight by what follows from its first gradient, which the later steps remember.
    """
    stored = stored_weights(case)
    if case + "traj" not in V or not np.array_equal(V[case + "traj"][-1], stored):
        return stored
    path = V[case + "traj"]
    later = np.stack([gradient(case, row, step) for step, row in enumerate(path[:-1], start=1)])
    first = first_gradient(path, later)
    # Of a unit that then died the ratio of two gradients is all that is left; the others tell where it was alive.
    forgotten = (np.abs(later[1:]) < ZERO).all(axis=0)
    for _ in range(3):
        weights = path[0] + RATE * first / (np.abs(first) + ADAM_EPS)
        first = np.where(forgotten, gradient(case, weights, 0), first)
    return path[0] + RATE * first / (np.abs(first) + ADAM_EPS)


def first_gradient(path: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The gradient that Adam saw before the ``later`` ones (steps, D), if it then went along ``path``.

    The second step is a quadratic in the unknown and leaves two answers, or only the sign where its own gradient is 0;
    all other steps choose among these, and then in ever closer surroundings of the best.
    """
    b1, b2 = BETAS

    def misses(guesses: np.ndarray) -> np.ndarray:
        first, second, total = (1 - b1) * guesses, (1 - b2) * guesses**2, np.zeros_like(guesses)
        for count, (g, before, after) in enumerate(zip(later, path, path[1:], strict=False), start=2):
            first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g**2
            step = RATE * (first / (1 - b1**count)) / (np.sqrt(second / (1 - b2**count)) + ADAM_EPS)
            total += np.abs(before - step - after)
        return total

    def best(guesses: np.ndarray) -> np.ndarray:
        return np.take_along_axis(guesses, misses(guesses).argmin(axis=0)[None], axis=0)[0]

    moved = (path[0] - path[1]) / RATE
    still = np.abs(later[0]) < ZERO
    # moved = (b1 g0 + g1) / (1 + b1) / sqrt((b2 g0^2 + g1^2) / (1 + b2)), in the unknown g0 / g1
    p = (b1 / (1 + b1)) ** 2 - moved**2 * b2 / (1 + b2)
    q = 2 * b1 / (1 + b1) ** 2
    r = (1 / (1 + b1)) ** 2 - moved**2 / (1 + b2)
    root = np.sqrt(np.maximum(q * q - 4 * p * r, 0))
    roots = np.stack([np.where(still, 0.0, later[0] * (-q + sign * root) / (2 * p)) for sign in (1, -1)])
    sizes = np.where(still, np.sign(moved) * np.geomspace(1e-12, 1e4, 400)[:, None], 0.0)
    found = best(np.concatenate([roots, sizes]))
    for width in 0.1 * 0.5 ** np.arange(40):
        found = best(found * (1 + width * np.linspace(-1, 1, 9)[:, None]))
    return found


def gradient(case: str, weights: np.ndarray, step: int) -> np.ndarray:
    critic = nn.Sequential(*layers(case))
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), critic.parameters())
    alpha = tensor(case, "traj_alpha")[step]
    wgan_critic_loss(
        critic, tensor(case, "real"), tensor(case, "fake"), lam=CASES[case]["lam"], alpha=alpha
    ).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in critic.parameters()]).numpy()


def flat(critic: nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in critic.parameters()]).numpy()


def has(case: str, *names: str) -> None:
    if any(case + name not in V for name in names):
        pytest.skip(f"{case}: no {names} in this file")


@pytest.mark.parametrize("case", CASES)
def test_penalty(case: str) -> None:
    critic, real, fake, alpha = build(case), *(tensor(case, name) for name in ("real", "fake", "alpha"))
    penalty, slopes = gradient_penalty(critic, real, fake, alpha=alpha)
    np.testing.assert_allclose(slopes.numpy(), V[case + "slopes"], **CLOSE)
    np.testing.assert_allclose(penalty.detach().numpy(), V[case + "gp"], **CLOSE)
    if case + "gp_one_sided" in V:
        one_sided = gradient_penalty(critic, real, fake, alpha=alpha, one_sided=True).penalty
        np.testing.assert_allclose(one_sided.item(), V[case + "gp_one_sided"], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_critic_sees_the_interpolates(case: str) -> None:
    has(case, "interp")
    critic, seen = build(case), []
    critic.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    gradient_penalty(critic, tensor(case, "real"), tensor(case, "fake"), alpha=tensor(case, "alpha"))
    np.testing.assert_allclose(seen[0].numpy(), V[case + "interp"], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_critic_loss_and_its_gradient(case: str) -> None:
    critic, real, fake, alpha = build(case), *(tensor(case, name) for name in ("real", "fake", "alpha"))
    out = wgan_critic_loss(critic, real, fake, lam=CASES[case]["lam"], alpha=alpha)
    np.testing.assert_allclose(-out.wasserstein.item(), V[case + "wasserstein"], **CLOSE)  # the file's sign
    np.testing.assert_allclose(out.gp.item(), V[case + "gp"], **CLOSE)
    np.testing.assert_allclose(out.loss.item(), V[case + "loss"], **CLOSE)
    out.loss.backward()
    compared = 0
    for index, linear in enumerate(module for module in critic if isinstance(module, nn.Linear)):
        for name, parameter in ((f"gW{index}", linear.weight), (f"gb{index}", linear.bias)):
            if case + name in V:
                np.testing.assert_allclose(parameter.grad.numpy(), V[case + name], **CLOSE, err_msg=name)
                compared += 1
    assert compared >= 2


def path(
    case: str,
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    lam: float,
    alphas: Tensor | None = None,
    bound: float | None = None,
) -> np.ndarray:
    """The weights after each step of the training loop; the "generator" hands the file's fake samples through."""
    (group,) = optimizer.param_groups
    group["initial_lr"] = group["lr"]
    words = torch.zeros(len(V[case + "real"]), 0, dtype=torch.int64)
    batches = (
        Batch(
            tensor(case, "real"),
            words,
            {"noise": tensor(case, "fake"), **({} if alphas is None else {"alpha": alphas[step]})},
        )
        for step in range(steps)
    )
    rows = []

    def after_step(report: StepReport) -> None:
        if bound is not None:
            clip_weights_(critic, bound)
        rows.append(flat(critic))

    fit(
        AdversarialPair(nn.Identity(), critic),
        [Player(CriticStep(lam=lam), optimizer, list(critic.named_parameters()), Constant(), NoClip())],
        batches,
        start=0,
        steps=steps,
        accumulate=1,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=after_step,
    )
    return np.stack(rows)


@pytest.mark.parametrize("case", CASES)
def test_trajectory_with_the_penalty(case: str) -> None:
    has(case, "traj", "traj_alpha")
    critic, alphas = build(case), tensor(case, "traj_alpha")
    optimizer = torch.optim.Adam(critic.parameters(), lr=RATE, betas=(BETAS[0], BETAS[1]))
    got = path(case, critic, optimizer, steps=len(alphas), lam=CASES[case]["lam"], alphas=alphas)
    drift = len(alphas) * DRIFT
    np.testing.assert_allclose(got, V[case + "traj"], rtol=CLOSE["rtol"], atol=max(CLOSE["atol"], drift))


@pytest.mark.parametrize("case", CASES)
def test_trajectory_with_clipped_weights(case: str) -> None:
    has(case, "wc_traj")
    critic = nn.Sequential(*layers(case))
    nn.utils.vector_to_parameters(torch.from_numpy(stored_weights(case)), critic.parameters())
    optimizer = torch.optim.RMSprop(critic.parameters(), lr=CLIPPED_RATE, alpha=DECAY, eps=CLIPPED_EPS)
    got = path(case, critic, optimizer, steps=len(V[case + "wc_traj"]), lam=0.0, bound=BOUND)
    np.testing.assert_allclose(got, V[case + "wc_traj"], **CLOSE)
    assert np.abs(got).max() == BOUND
