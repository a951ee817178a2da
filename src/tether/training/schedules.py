"""Learning-rate factors over a run, as functions of the step: nothing to save, nothing to drift on resume."""

from __future__ import annotations

import abc
import math
from typing import Annotated

from annotated_types import Gt, Le

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, Share, Whole, checked
from tether.core.registry import Registry


@checked
def scaled_lr(base: Positive, *, batch: Count, ref: Count = 256) -> float:
    """A learning rate for batches of another size: ``base`` for each whole ``ref`` of pairs.

    The division is one of whole numbers, as in CLIPA's code (arXiv 2305.07017, 2306.15658): 1000 pairs count as 768.

    Raises:
        InputError: a batch smaller than ``ref``, which would not learn.

    Example:
        >>> from tether.training.schedules import scaled_lr
        >>> scaled_lr(1e-6, batch=1000)
        3e-06
    """
    if batch < ref:
        raise InputError(f"batch: expected at least {ref} pairs, for each of which the rate is meant, got {batch}")
    return base * (batch // ref)


class Schedule(abc.ABC):
    """Linear warm-up from 0 to 1, then a shape that a subclass gives."""

    @checked
    def __init__(self, *, warmup: Whole = 0) -> None:
        """Args: warmup: steps until the full learning rate."""
        self.warmup = warmup

    def factor(self, step: int, *, steps: int) -> float:
        """Multiplier of the base learning rate at ``step`` of ``steps``, in [0, 1]."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        length = max(1, steps - self.warmup)
        return self.shape(min(1.0, (step - self.warmup) / length))

    @abc.abstractmethod
    def shape(self, progress: float) -> float:
        """The factor after the warm-up; ``progress`` runs over [0, 1]."""


class Cosine(Schedule):
    """Half a cosine from 1 to ``floor`` (CLIP's schedule, arXiv 2103.00020 section 2.5).

    With ``start`` the warm-up is a straight line with both ends in it, as in BEiT's code and FT-CLIP's (arXiv
    2212.06138): its first step has the factor ``start``, its last step 1, which the first step of the cosine repeats.
    """

    @checked
    def __init__(self, *, warmup: Whole = 0, floor: Share = 0.0, start: Share | None = None) -> None:
        """Args: warmup: steps until the full rate. floor: last factor. start: first factor of the warm-up."""
        super().__init__(warmup=warmup)
        self.floor, self.start = floor, start

    def factor(self, step: int, *, steps: int) -> float:
        """See Schedule."""
        if self.start is None or step >= self.warmup:
            return super().factor(step, steps=steps)
        return self.start + (1 - self.start) * step / max(1, self.warmup - 1)

    def shape(self, progress: float) -> float:
        """See Schedule."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


class Constant(Schedule):
    """1 after the warm-up."""

    def shape(self, progress: float) -> float:
        """See Schedule."""
        return 1.0


class Trapezoid(Schedule):
    """1, then a straight line to ``floor`` over the last ``decay`` share (warm-up, stable, decay)."""

    @checked
    def __init__(self, *, warmup: Whole = 0, decay: Annotated[float, Gt(0), Le(1)] = 0.2, floor: Share = 0.0) -> None:
        """Args: warmup: steps to the full rate. decay: last share of the run. floor: last factor."""
        super().__init__(warmup=warmup)
        self.decay, self.floor = decay, floor

    def shape(self, progress: float) -> float:
        """See Schedule."""
        left = min(1.0, (1 - progress) / self.decay)
        return self.floor + (1 - self.floor) * left


class StageSchedule(Schedule):
    """Another schedule over some steps of a run alone, its warm-up among them."""

    def __init__(self, inner: Schedule, *, first: int, end: int) -> None:
        """Args: inner: over ``end - first`` steps. first: its step 0. end: step after its last."""
        super().__init__(warmup=inner.warmup)
        self.inner, self.first, self.end = inner, first, end

    def factor(self, step: int, *, steps: int) -> float:
        """See Schedule."""
        return self.inner.factor(step - self.first, steps=self.end - self.first)

    def shape(self, progress: float) -> float:
        """See Schedule."""
        return self.inner.shape(progress)


SCHEDULES: Registry[Schedule] = Registry(
    "schedules",
    {
        "cosine": "tether.training.schedules:Cosine",
        "constant": "tether.training.schedules:Constant",
        "trapezoid": "tether.training.schedules:Trapezoid",
    },
)
