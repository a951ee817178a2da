"""What a training leaves at each step, however it was run, and how often its loss jumped."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

BEFORE = 20
"""Steps before, planted ones left out, whose median loss is the level that a spike rises from."""
RISE, DEVIATIONS = 0.05, 5.0
"""Where a model has no rise of its own, a spike lies above that level by this fraction of it and by this many
deviations (1.48 times the median one)."""


@dataclass(frozen=True, slots=True)
class RunTrace:
    """One training; entry i belongs to step i, None stands for what is not finite or not there.

    Attributes:
        losses: of training.
        norms: gradient norm before clipping.
        thresholds: the clipper's limit.
        scales: the factor the gradients were given, the smallest if it differs by tensor.
        skipped: steps not taken because a gradient was not finite.
    """

    losses: tuple[float | None, ...]
    norms: tuple[float | None, ...]
    thresholds: tuple[float | None, ...]
    scales: tuple[float, ...]
    skipped: tuple[int, ...]

    @classmethod
    def of_log(cls, records: Sequence[Mapping[str, Any]]) -> Self:
        """From the records of a run's ``metrics.jsonl``, one for each step."""
        return cls(
            losses=tuple(record["loss"] for record in records),
            norms=tuple(record["grad_norm"] for record in records),
            thresholds=tuple(record["grad_threshold"] for record in records),
            scales=tuple(record["grad_scale"] or 1.0 for record in records),
            skipped=tuple(step for step, record in enumerate(records) if record["skipped"]),
        )

    @property
    def clipped(self) -> float:
        """Fraction of the steps in which gradients were scaled down."""
        return sum(scale < 1 for scale in self.scales) / max(1, len(self.scales))


def spikes(losses: Sequence[float | None], *, rise: float | None = None, planted: Sequence[int] = ()) -> int:
    """How often the loss jumped: steps in a row that lie too far above the level before count once.

    The level is the median loss of the ``BEFORE`` steps before. A loss that is not finite is a spike.

    Args:
        losses: of each step; None when it is not finite.
        rise: nats above the level that are too far; from the losses' own spread if None, see ``RISE``.
        planted: steps at which the loss was spoiled on purpose; they neither count nor enter the level.
    """
    places, found, inside = set(planted), 0, False
    for step, loss in enumerate(losses):
        if step in places:
            continue
        before = [
            value
            for earlier in range(max(0, step - BEFORE), step)
            if earlier not in places and (value := losses[earlier]) is not None
        ]
        high = loss is None or (len(before) >= BEFORE // 2 and loss > _limit(before, rise))
        found += high and not inside
        inside = high
    return found


def _limit(before: Sequence[float], rise: float | None) -> float:
    level = statistics.median(before)
    if rise is None:
        spread = 1.4826 * statistics.median(abs(value - level) for value in before)
        rise = max(RISE * abs(level), DEVIATIONS * spread)
    return level + rise
