"""From which score on an image is called defective: a threshold from normal images that promises few false alarms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import Inner, checked

USUAL_RATE = 0.05


@dataclass(frozen=True, slots=True)
class AlarmThreshold:
    """A score above which an image is called defective.

    Attributes:
        value: the score.
        rate: of false alarms among normal images, at most, on average over sets of normal images.
        normals: how many gave it.
    """

    value: float
    rate: float
    normals: int

    def __str__(self) -> str:
        """The threshold and its promise."""
        return f"threshold {self.value:.4g}: at most {self.rate:.1%} false alarms, from {self.normals:,} good images"


@checked
def alarm_threshold(scores: Sequence[float] | Float[np.ndarray, " n"], *, rate: Inner | None = None) -> AlarmThreshold:
    """The conformal quantile: the ceil((n + 1)(1 - rate))-th smallest of n scores of normal images.

    A further normal image, drawn and scored as those were, lies above it with probability ``rate`` at most, whatever
    the scores' distribution (Vovk et al., Algorithmic Learning in a Random World, 2005; ties only lower it).

    Args:
        scores: of n normal images that the detector has not learnt from.
        rate: of false alarms; None takes 0.05, or ``least_rate(n)`` where n images cannot promise that.

    Raises:
        InputError: no score, one that is not finite, or a rate below ``least_rate(n)``; it says how many are needed.

    Example:
        >>> from tether.evaluate.false_alarms import alarm_threshold
        >>> alarm_threshold([0.1, 0.5, 0.2, 0.3], rate=0.4)
        AlarmThreshold(value=0.3, rate=0.4, normals=4)
    """
    found = np.sort(np.asarray(scores, dtype=np.float64))
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise InputError(f"scores: expected finite numbers of one normal image at least, got {found!r:.200}")
    n, least = len(found), least_rate(len(found))
    if rate is None:
        rate = max(USUAL_RATE, least)
    place = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if place > n:
        needed = math.ceil(1 / rate - 1e-9) - 1
        raise InputError(
            f"false alarms: {n} good images cannot promise {rate:.3g}; give {needed} or more, or a rate of "
            f"{math.ceil(1000 * least) / 1000:g} or more"
        )
    return AlarmThreshold(float(found[max(place, 1) - 1]), rate, n)


def least_rate(count: int) -> float:
    """The smallest rate of false alarms that so many normal images can promise."""
    return 1 / (count + 1)
