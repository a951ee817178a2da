"""Softmax regression of digits over five sites under privacy, with clipping norms that are fixed and that move."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tether.methods.dpfl_moo_clip import MooClipSchedule, PrivateClient, Update, federate
from tether_lab.lab.lab import Lab
from tether_lab.worlds.digits import digits

Arm = Literal["fixed", "adaptive", "normalised", "adaclip"]
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
        if arm == "adaclip":
            rate = 0.2 * 2 * SIGMA * self.dim**0.5 / BATCH  # the rule's own: lr * kappa
            sites = [
                AdaClipSite(module, x, y, c=c, lr=lr, clip_rate=rate, seed=1000 * self._lab.seed + site)
                for site, (x, y) in enumerate(self._sites)
            ]
            done = federate(module, cast("list[PrivateClient]", sites), rounds=self._rounds, clip=c, delta=DELTA)
            end = statistics.fmean(site.c for site in sites)
            return told(done.module, *self._val), told(done.module, *self._test), done.epsilon, end
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


class AdaClipSite:
    """A site whose own clipping norm Opacus' AdaClip moves after each step, by a count that it releases to itself."""

    def __init__(
        self, module: nn.Module, x: Tensor, y: Tensor, *, c: float, lr: float, clip_rate: float, seed: int
    ) -> None:
        """Take the data."""
        from opacus import GradSampleModule
        from opacus.accountants import RDPAccountant
        from opacus.optimizers import AdaClipDPOptimizer

        self._x, self._y, self._generator = x, y, torch.Generator().manual_seed(seed)
        self._module: Any = GradSampleModule(copy.deepcopy(module).train(), loss_reduction="sum")
        self._optimizer = AdaClipDPOptimizer(
            torch.optim.SGD(self._module.parameters(), lr=lr),
            noise_multiplier=SIGMA,
            target_unclipped_quantile=0.5,
            clipbound_learning_rate=clip_rate,
            max_clipbound=100.0,
            min_clipbound=0.01,
            unclipped_num_std=COUNT_STD,
            max_grad_norm=c,
            expected_batch_size=BATCH,
            generator=self._generator,
        )
        self._accountant = RDPAccountant()

    @property
    def c(self) -> float:
        """The norm in force."""
        return float(self._optimizer.max_grad_norm)

    def train(self, state: Mapping[str, Tensor], *, c: float) -> Update:
        """A step from the server's weights; the server's norm is not looked at."""
        del c
        self._module._module.load_state_dict(dict(state))
        rate = BATCH / len(self._x)
        rows = (torch.rand(len(self._x), generator=self._generator) < rate).nonzero().flatten()
        self._optimizer.zero_grad()
        logits = self._module(self._x[rows].requires_grad_())
        nn.functional.cross_entropy(logits, self._y[rows], reduction="sum").backward()
        self._optimizer.step()
        self._accountant.step(noise_multiplier=SIGMA, sample_rate=rate)
        return Update({name: value.clone() for name, value in self._module._module.state_dict().items()}, None)

    def epsilon(self, *, delta: float) -> float:
        """What its steps so far have spent."""
        return float(self._accountant.get_epsilon(delta=delta))


@torch.no_grad()
def told(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share told rightly."""
    return float((module(x).argmax(1) == y).float().mean())
