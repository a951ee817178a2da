"""What a smoke run computed, in four numbers: a share of 24 images may stay where it was, weights and scores do not."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch

_OPEN: list[SmokeTrace] = []


class SmokeTrace:
    """What the optimizers of torch in this process trained, and ``saw`` was given, while it is the innermost open one.

    Attributes:
        optimizers: number of optimizers that made a step.
        steps: number of their steps.
        scores: size of what ``saw`` was given.
    """

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.optimizers = self.steps = 0
        self.scores = 0.0
        self._numbers: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._sizes: list[float] = []

    def figures(self) -> dict[str, float]:
        """The counts, and ``weights``: their sizes after each optimizer's last step, with growing factors."""
        weights = sum((1 + number / 100) * size for number, size in enumerate(self._sizes))
        return {"optimizers": self.optimizers, "steps": self.steps, "weights": weights, "scores": self.scores}

    def add(self, figures: Mapping[str, float]) -> None:
        """Count what another trace saw, such as that of a model that a cache keeps."""
        self.optimizers += int(figures["optimizers"])
        self.steps += int(figures["steps"])
        self.scores += figures["scores"]
        self._sizes.append(figures["weights"])

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        """See what is stepped inside."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        hook = register_optimizer_step_post_hook(self._stepped)
        _OPEN.append(self)
        try:
            yield self
        finally:
            _OPEN.remove(self)
            hook.remove()

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if _OPEN[-1] is not self:
            return
        self.steps += 1
        if optimizer not in self._numbers:
            self._numbers[optimizer] = len(self._sizes)
            self._sizes.append(0.0)
            self.optimizers += 1
        weights = (weight.detach() for group in optimizer.param_groups for weight in group["params"])
        # In double precision, for two steps at a rate of 1e-5 are less than float32 tells; of the first order, for a
        # vector of unit length keeps its second.
        self._sizes[self._numbers[optimizer]] = sum(map(_size, weights))


def saw(scores: torch.Tensor) -> None:
    """Count in the open trace, if there is one, what a coarse metric is made of: cosines, logits, images."""
    if _OPEN:
        _OPEN[-1].scores += _size(scores.detach())


def _size(values: torch.Tensor) -> float:
    """Sum of the absolute values."""
    import torch

    return float(torch.linalg.vector_norm(values, ord=1, dtype=torch.float64))


def was_trained(figures: Mapping[str, float]) -> None:
    """Count in the open trace, if there is one, what was trained before and is taken from a cache."""
    if _OPEN:
        _OPEN[-1].add(figures)
