"""Eight Gaussians on a circle, a small generator and a small critic: the toy of the Wasserstein GAN papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from timm.optim import RMSpropTF
from torch import Tensor, nn

from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.methods.wgan_gp.loss import clip_weights_, gradient_penalty
from tether.methods.wgan_gp.step import AdversarialPair, CriticStep, GeneratorStep
from tether.optim.clip import NoClip
from tether.training.loop import Player, Precision, StepReport, fit
from tether.training.schedules import Constant

RADIUS = 2 / 1.414  # gan_toy.py of igul222/improved_wgan_training
SPREAD = 0.02 / 1.414
WIDTH, BATCH = 128, 256
CRITIC_STEPS = 5
"""Steps of the critic for each of the generator."""
PENALTY_WEIGHT, PENALTY_RATE, BETAS = 0.1, 1e-3, (0.5, 0.9)
CLIPPING_RATE = 5e-4
"""The weight is the released one, both rates are ten times theirs."""
NEAR = 0.15
"""A made point this close to a mode counts as being there."""
SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class CriticRun:
    """One training run.

    Attributes:
        samples: (4096, 2) points of the generator.
        near: share of them within 0.15 of a mode.
        modes: modes with at least one such point.
        at_bound: share of the critic's weights within 1 % of the clipping bound; 0 without one.
        slope: mean slope of the critic between real and made points.
        wasserstein: the critic's estimate in its last step.
    """

    samples: Float[Tensor, "n 2"]
    near: float
    modes: int
    at_bound: float
    slope: float
    wasserstein: float


def centres() -> Float[Tensor, "8 2"]:
    """The modes."""
    angles = torch.arange(8) * (math.pi / 4)
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


def draw(count: int, *, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Real points, every mode as likely."""
    modes = centres()[torch.randint(0, 8, (count,), generator=generator)]
    return modes + SPREAD * torch.randn(count, 2, generator=generator)


def network(outputs: int) -> nn.Sequential:
    """Two inputs and three hidden layers of 128 ReLU, drawn from torch's default generator as gan_toy.py does.

    Uniform weights: He's in the hidden layers, Glorot's in the last; biases of zero.
    """
    sizes = (2, WIDTH, WIDTH, WIDTH, outputs)
    linears = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    for linear in linears:
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
    nn.init.xavier_uniform_(linears[-1].weight)
    return nn.Sequential(*[part for linear in linears for part in (linear, nn.ReLU())][:-1])


def train(
    hold: Literal["penalty", "clipping"], *, seed: int, steps: int, bound: float = 0.01, adam: bool = False
) -> CriticRun:
    """Train both players through ``tether.training.loop.fit``; equal seeds see the same weights, points and noise.

    Args:
        hold: what keeps the critic's slope in check.
        seed: of everything random.
        steps: of the generator.
        bound: of the critic's weights, for ``clipping``.
        adam: give ``clipping`` the optimiser and rate of ``penalty`` instead of its own.
    """
    adam = adam or hold == "penalty"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = AdversarialPair(network(2), network(1))
    chance = torch.Generator().manual_seed(seed + 1)
    lam = PENALTY_WEIGHT if hold == "penalty" else 0.0
    players = [
        Player(GeneratorStep(), *_moved(pair.generator, adam=adam), Constant(), NoClip(), every=CRITIC_STEPS, first=1),
        Player(
            CriticStep(lam=lam, generator=torch.Generator().manual_seed(seed + 2)),
            *_moved(pair.critic, adam=adam),
            Constant(),
            NoClip(),
        ),
    ]
    reports: list[StepReport] = []

    def after_step(report: StepReport) -> None:
        if hold == "clipping":
            clip_weights_(pair.critic, bound)
        reports.append(report)

    fit(
        pair,
        players,
        _batches(chance),
        start=0,
        steps=steps * CRITIC_STEPS + 1,  # the generator plays first, and from the second round on
        accumulate=1,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=after_step,
    )
    return _outcome(pair, seed=seed, bound=bound if hold == "clipping" else None, last=reports[-1])


def _moved(module: nn.Module, *, adam: bool) -> tuple[torch.optim.Optimizer, list[tuple[str, nn.Parameter]]]:
    rate = PENALTY_RATE if adam else CLIPPING_RATE
    groups = [{"params": list(module.parameters()), "initial_lr": rate}]
    if adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, lr=rate, betas=BETAS, fused=True)
    else:
        optimizer = RMSpropTF(groups, lr=rate)  # TensorFlow's constants, as in the released code
    return optimizer, list(module.named_parameters())


def _batches(chance: torch.Generator) -> Iterator[Batch]:
    words = torch.zeros(BATCH, 0, dtype=torch.int64)
    while True:
        points = draw(BATCH, generator=chance)
        yield Batch(points, words, {"noise": torch.randn(BATCH, 2, generator=chance)})


def _outcome(pair: AdversarialPair, *, seed: int, bound: float | None, last: StepReport) -> CriticRun:
    chance = torch.Generator().manual_seed(seed + 3)
    with torch.no_grad():
        samples = pair.generator(torch.randn(SAMPLES, 2, generator=chance))
    distance, mode = torch.cdist(samples, centres()).min(dim=1)
    near = distance < NEAR
    slopes = gradient_penalty(
        pair.critic, draw(SAMPLES, generator=chance), samples, generator=chance, create_graph=False
    ).slopes
    at_bound = 0.0
    if bound is not None:
        weights = nn.utils.parameters_to_vector(pair.critic.parameters())
        at_bound = float((weights.abs() > 0.99 * bound).float().mean())
    return CriticRun(
        samples,
        float(near.float().mean()),
        len(mode[near].unique()),
        at_bound,
        float(slopes.mean()),
        float(last.terms["wasserstein"]),
    )
