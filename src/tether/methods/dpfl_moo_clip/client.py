"""One site: its data, which stay inside, and what leaves it after a round."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, NonNegative, Positive, PositiveRate, checked
from tether.methods.dpfl_moo_clip import CountedClip, gradient_noise
from tether.methods.dpfl_moo_clip.checks import SampleLoss, check_loss, check_private_module, opacus_library

Accountant = Literal["rdp", "prv"]


def row_cross_entropy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Of each row."""
    return F.cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True, slots=True)
class Update:
    """All that leaves a client.

    Attributes:
        state: weights after its steps, whose gradients were clipped and noised.
        clipped: mean share of clipped samples, with noise; None where none is released.
    """

    state: Mapping[str, Tensor]
    clipped: float | None


@final
class PrivateClient:
    """Trains a module on rows that nobody else sees, by DP-SGD of Opacus: samples are what is protected.

    Each step draws a Poisson batch, clips each sample's gradient at the round's norm, and adds Opacus' noise; Opacus'
    accountant counts it. With ``count_std`` the share of clipped samples is released, too: the gradients' noise is
    raised so that both together cost what ``noise_multiplier`` alone would (arXiv 1905.03871, theorem 1). A sample
    whose gradient is NaN adds nothing.

    Attributes:
        batch_size: as given.
        noise_multiplier: as given.
        count_std: as given.
        repeats: whether batches and noise come from a seed.

    Args:
        module: what is trained; copied. It maps x to logits.
        x: (n, ...) rows.
        y: (n,) labels.
        batch_size: mean size of a Poisson batch; each row is drawn with ``batch_size / n``.
        noise_multiplier: that the accountant is told; 0 is no privacy and an infinite epsilon.
        lr: of SGD.
        count_std: noise on the count; None releases none.
        steps: a round.
        loss: of each row alone.
        most_epsilon: a round that would spend more at ``delta`` is refused, whoever asks for it, before any step.
        delta: of ``most_epsilon``.
        accountant: of Opacus; its gdp can underestimate what is spent, and is not taken.
        seed: of batches and noise, to repeat a simulation. Who knows it can take the noise away again: leave it None
            where data are real.

    Raises:
        InputError: a module or loss that is not private, see ``checks``; no rows, or fewer than a batch;
            ``noise_multiplier >= 2 * count_std``; or ``most_epsilon`` without ``delta`` or without noise.
        MissingExtraError: Opacus is not installed.

    Example:
        >>> import torch
        >>> from tether.methods.dpfl_moo_clip import PrivateClient
        >>> x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
        >>> client = PrivateClient(torch.nn.Linear(4, 3), x, y, batch_size=16, noise_multiplier=1.0, lr=0.5)
        >>> update = client.train(client.state, c=1.0)
        >>> sorted(update.state), client.epsilon(delta=1e-3) > 0
        (['bias', 'weight'], True)
    """

    @checked
    def __init__(
        self,
        module: nn.Module,
        x: Tensor,
        y: Int[Tensor, " n"],
        *,
        batch_size: Count,
        noise_multiplier: NonNegative,
        lr: PositiveRate,
        count_std: Positive | None = None,
        steps: Count = 1,
        loss: SampleLoss = row_cross_entropy,
        accountant: Accountant = "rdp",
        most_epsilon: Positive | None = None,
        delta: Inner | None = None,
        seed: int | None = None,
    ) -> None:
        """Take the data, which never leave."""
        opacus_library()
        from opacus import GradSampleModule
        from opacus.accountants import create_accountant
        from opacus.optimizers import DPOptimizer

        if len(x) != len(y) or not len(x):
            raise InputError(f"client: expected as many rows as labels, and some, got {len(x)} and {len(y)}")
        if batch_size > len(x):
            raise InputError(f"client: batch_size: expected at most its {len(x)} rows, got {batch_size}")
        if (most_epsilon is None) != (delta is None) or (most_epsilon is not None and not noise_multiplier):
            raise InputError(
                "most_epsilon, delta: expected both or neither, and noise, got "
                f"{most_epsilon}, {delta} and noise_multiplier {noise_multiplier:g}"
            )
        if count_std is not None:
            gradient_noise(noise_multiplier, count_std)
        module = copy.deepcopy(module).train()
        check_private_module(module)
        self._x, self._y, self._loss, self._steps = x.detach(), y, loss, steps
        self._rate, self._sigma = batch_size / len(x), float(noise_multiplier)
        drawn = int.from_bytes(os.urandom(8), "little") >> 1 if seed is None else seed
        self._generator = torch.Generator().manual_seed(drawn)
        self._module: Any = GradSampleModule(module, loss_reduction="sum")
        learnt = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        self._optimizer = DPOptimizer(
            torch.optim.SGD(learnt, lr=lr),
            noise_multiplier=self._sigma,
            max_grad_norm=1.0,
            expected_batch_size=batch_size,
            generator=self._generator,
        )
        self._most = None if most_epsilon is None or delta is None else (float(most_epsilon), float(delta))
        self._clip = CountedClip(self._optimizer, c=1.0, count_std=count_std)
        self._mechanism, self._accountant = accountant, create_accountant(mechanism=accountant)
        with torch.no_grad():
            check_loss(loss, classes=module(self._x[:1]).shape[1])
        self.batch_size, self.noise_multiplier, self.count_std = batch_size, self._sigma, count_std
        self.repeats = seed is not None

    @property
    def state(self) -> dict[str, Tensor]:
        """A copy of its weights by name."""
        return {name: value.detach().clone() for name, value in self._module._module.state_dict().items()}

    def train(self, state: Mapping[str, Tensor], *, c: float) -> Update:
        """Take the round's steps from the server's weights at the server's clipping norm.

        Raises:
            InputError: weights of another module, a norm that is none, or a round that would spend more than
                ``most_epsilon``.
        """
        if self._most is not None:
            most, delta = self._most
            would = _spent(self._mechanism, (*self.history, (self._sigma, self._rate, self._steps)), delta)
            if would > most:
                raise InputError(f"client: another round would spend epsilon {would:.3g}; most_epsilon is {most:g}")
        own = self._module._module
        expected = {name: tuple(value.shape) for name, value in own.state_dict().items()}
        if {name: tuple(value.shape) for name, value in state.items()} != expected:
            raise InputError(f"state: expected weights {expected}, got {sorted(state)}")
        own.load_state_dict(dict(state))
        self._clip.begin(c)
        for _ in range(self._steps):
            rows = (torch.rand(len(self._x), generator=self._generator) < self._rate).nonzero().flatten()
            self._optimizer.zero_grad()
            x = self._x[rows]
            # Hooks of modules whose inputs need no gradient warn.
            logits = self._module(x.requires_grad_() if x.is_floating_point() else x)
            self._loss(logits, self._y[rows]).sum().backward()
            self._optimizer.step()
            if self._sigma:
                self._accountant.step(noise_multiplier=self._sigma, sample_rate=self._rate)
        return Update(self.state, None if self.count_std is None else self._clip.share)

    @property
    def history(self) -> list[tuple[float, float, int]]:
        """What Opacus' accountant counts: noise multiplier, sample rate and steps, stretch by stretch."""
        return [(float(sigma), float(rate), int(steps)) for sigma, rate, steps in self._accountant.history]

    def spent_before(self, history: Sequence[tuple[float, float, int]]) -> None:
        """Count what the same rows have spent in an earlier process, before any step of this one.

        Raises:
            InputError: steps were taken already, or no history.
        """
        whole = all(len(one) == 3 and one[0] > 0 and 0 < one[1] <= 1 and one[2] >= 1 for one in history)
        if self._accountant.history or not whole:
            raise InputError(
                f"history: expected (noise, rate, steps) before the first step, got {list(history)!r:.100}"
            )
        self._accountant.history = [(float(sigma), float(rate), int(steps)) for sigma, rate, steps in history]

    @checked
    def epsilon(self, *, delta: Inner) -> float:
        """What its steps so far have spent, by Opacus' accountant; infinite without noise."""
        if not self._sigma:
            return float("inf")
        return _spent(self._mechanism, tuple(self._accountant.history), delta)


@functools.lru_cache(maxsize=256)
def _spent(mechanism: str, history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Opacus' epsilon of steps; it takes a tenth of a second, and clients of one size have the same."""
    from opacus.accountants import create_accountant

    accountant: Any = create_accountant(mechanism=mechanism)
    accountant.history = list(history)
    return float(accountant.get_epsilon(delta=delta))
