"""Softmax regression of digits over five sites under privacy, with clipping norms that are fixed and that move."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from tether.optim.private import MooClipSchedule
from tether.papers.testbeds.digits import digits
from tether.train.federated import PrivateClient, federate

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

Arm = Literal["fixed", "adaptive", "normalised"]
CLIENTS, BATCH, SIGMA, COUNT_STD, ROUNDS, DELTA = 5, 64, 1.5, 3.0, 60, 1e-4
NORMS, RATES = (0.05, 0.2, 1.0, 3.0, 10.0), (0.5, 2.0, 8.0)
"""First, or fixed, clipping norms; learning rates that every arm tries at each of them."""
VALIDATION = 300
SMALL = 1e-4
"""A fixed norm that no gradient is below: each sample's gradient is brought to one length."""


class PrivateDigits:
    """One seed's sites, of which none sees another's rows, and the digits that decide and that test."""

    def __init__(self, lab: Lab) -> None:
        """Deal the digits out."""
        data = digits(lab)
        order = torch.randperm(len(data.train), generator=lab.generator("validation"))
        low, high = (
            data.train.min(),
            data.train.max(),
        )  # blank paper and full ink: figures of the format, not of the data
        x, test = (((one - low) / (high - low)).flatten(1) for one in (data.train, data.test))
        self._lab, self._rounds = lab, lab.steps(ROUNDS, 2)
        self._val, self._test = (x[order[:VALIDATION]], data.labels[order[:VALIDATION]]), (test, data.test_labels)
        dealt = order[VALIDATION:].tensor_split(CLIENTS)
        self._sites = [(x[some], data.labels[some]) for some in dealt]
        self.dim = 10 * (x.shape[1] + 1)

    def run(self, arm: Arm, *, c: float, lr: float) -> tuple[float, float, float, float]:
        """Validation and test accuracy, epsilon, and the norm at the end."""
        module = nn.Linear(self._sites[0][0].shape[1], 10)
        for value in module.parameters():
            nn.init.zeros_(value)
        count_std = COUNT_STD if arm == "adaptive" else None
        clients = [
            PrivateClient(
                module,
                x,
                y,
                batch_size=BATCH,
                noise_multiplier=SIGMA,
                lr=lr if arm != "normalised" else lr / c,
                count_std=count_std,
                seed=1000 * self._lab.seed + site,
            )
            for site, (x, y) in enumerate(self._sites)
        ]
        clip: MooClipSchedule | float = c
        if arm == "adaptive":
            clip = MooClipSchedule(
                c, noise_multiplier=SIGMA, dim=self.dim, batch_size=BATCH, target=0.5, count_std=COUNT_STD
            )
        done = federate(module, clients, rounds=self._rounds, clip=clip, delta=DELTA)
        return told(done.module, *self._val), told(done.module, *self._test), done.epsilon, done.c

    def arm(self, arm: Arm) -> dict[str, float]:
        """Test accuracy at each first norm, at the rate that validation prefers there; the worst and the best of them.

        The best norm is the one that validation prefers; the worst is the worst.
        """
        found = dict[str, float]()
        kept, spent = list[tuple[float, float]](), set[float]()
        for c in (SMALL,) if arm == "normalised" else NORMS:
            tried = [self.run(arm, c=c, lr=lr) for lr in RATES]
            best = max(tried, key=lambda one: one[0])
            kept.append(best[:2])
            spent |= {one[2] for one in tried}
            found[f"{arm}_{c:g}"], found[f"{arm}_{c:g}_end"] = best[1], best[3]
        found[f"{arm}_worst"] = min(test for _, test in kept)
        found[f"{arm}_best"] = max(kept, key=lambda one: one[0])[1]
        found[f"{arm}_mean"] = statistics.fmean(test for _, test in kept)
        found[f"{arm}_epsilon"] = max(spent)
        return found


@torch.no_grad()
def told(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share told rightly."""
    return float((module(x).argmax(1) == y).float().mean())
