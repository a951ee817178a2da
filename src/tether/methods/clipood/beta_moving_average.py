"""The average of a whole run's weights, mostly its start and its end (Beta moving average of CLIPood)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.ema import approach_

BETA = 0.5  # arXiv 2302.00864, released main.py
Module = TypeVar("Module", bound=nn.Module)


@checked
def beta_weights(total_steps: Count, *, beta: Positive = BETA) -> Float[Tensor, " steps_and_one"]:
    """Weight of the start and of each step: the density of Beta(beta, beta) at ``(t + 0.5) / (total_steps + 1)``.

    Below 1 both ends weigh most, at 1 all weigh the same, above 1 the middle does. The half step keeps the places
    away from 0 and 1, where the density may be infinite. Source: arXiv 2302.00864, equation 6.

    Args:
        total_steps: T >= 1; there are T + 1 weights, in float64, not normalised.
        beta: both parameters.
    """
    place = (torch.arange(total_steps + 1, dtype=torch.float64) + 0.5) / (total_steps + 1)
    log_constant = 2 * math.lgamma(beta) - math.lgamma(2 * beta)
    return ((beta - 1) * (place.log() + torch.log1p(-place)) - log_constant).exp()


@final
class BetaMovingAverage(Generic[Module]):
    """Averages a model's weights over a run of known length, with most weight on where it began and where it ends.

    The start holds what the model knew, the end what it learnt. Unlike an exponential average it forgets neither:
    after the last step the average is ``sum(alpha_t * weights_t) / sum(alpha_t)`` over the start and every step, kept
    without storing the run. Call ``update_`` once after every optimiser step, on every process alike.

    Parameters are averaged in at least float32; buffers keep their first values.

    Source: arXiv 2302.00864, section 4.2, and the released ``GeneralMovingAverage``, which cannot be resumed from what
    it saves; this can.

    Attributes:
        model: a frozen copy that holds the average; in eval mode.
        weights: (T + 1,) alpha, the start's first.
        step: steps seen so far.
        total_steps: T.
        beta: see ``beta_weights``.
    """

    def __init__(
        self, model: Module, *, total_steps: int, beta: float = BETA, only: Collection[str] | None = None
    ) -> None:
        """Start from the weights as they are, before the first step.

        Args:
            model: what learns; any module.
            total_steps: of the run, which must be known.
            beta: see ``beta_weights``.
            only: names of the parameters that the run moves; None averages all. The others stay as they are.

        Raises:
            InputError: a value outside its range, or a name that is no parameter's.
        """
        self.weights = beta_weights(total_steps, beta=beta)
        self.total_steps, self.beta, self.step = total_steps, beta, 0
        self.model: Module = frozen_copy(model)
        moving, averages = dict(model.named_parameters()), dict(self.model.named_parameters())
        names = list(moving) if only is None else list(dict.fromkeys(only))
        if strange := [name for name in names if name not in moving]:
            raise InputError(f"only: the model has no parameter {strange[0]!r}")
        if not names:
            raise InputError("only: expected at least one parameter, got none")
        self._pairs = [(name, averages[name], moving[name]) for name in names]
        self._alphas = self.weights.tolist()
        self._weight_sum: float = self._alphas[0]

    def update_(self) -> None:
        """Take in the weights after one more step.

        Raises:
            RuntimeError: more steps than ``total_steps``: the weights were drawn up for a shorter run.
        """
        if self.step >= self.total_steps:
            raise RuntimeError(f"step {self.step + 1}: this average was made for {self.total_steps} steps")
        self.step += 1
        alpha = self._alphas[self.step]
        self._weight_sum += alpha
        share = alpha / self._weight_sum
        _, averages, weights = zip(*self._pairs, strict=True)
        approach_(averages, weights, share=share)

    def state_dict(self) -> dict[str, Any]:
        """All that ``load_state_dict`` needs to continue bit for bit; the tensors are copies."""
        return {
            "step": self.step,
            "weight_sum": self._weight_sum,
            "total_steps": self.total_steps,
            "beta": self.beta,
            "average": {name: average.detach().clone() for name, average, _ in self._pairs},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another average of the same settings stood.

        Raises:
            InputError: the state of a run of another length, of another beta, or of other parameters.
        """
        for name in ("total_steps", "beta"):
            if state[name] != getattr(self, name):
                raise InputError(f"{name}: expected {getattr(self, name)!r} as this average has, got {state[name]!r}")
        given = state["average"]
        expected = {name: average.shape for name, average, _ in self._pairs}
        if {name: tensor.shape for name, tensor in given.items()} != expected:
            raise InputError(f"average: expected {sorted(expected)} of the same shapes, got {sorted(given)}")
        for name, average, _ in self._pairs:
            average.copy_(given[name])
        self.step, self._weight_sum = int(state["step"]), float(state["weight_sum"])
