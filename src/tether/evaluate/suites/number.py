"""A number with what its interval, and its difference from another model's, is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tether.evaluate.bootstrap import draws
from tether.evaluate.groups import wilson

Statistic = Callable[[Float[np.ndarray, " n"]], float]
"""The number when every image counts as often as these weights say."""


@dataclass(frozen=True)
class SuiteNumber:
    """One number of one model on one test set.

    Attributes:
        value: the number.
        chance: what a model that knows nothing reaches.
        drawn: the number for each draw of the images; every model has the same draws.
        right: (n,) whether each image is right, where the number is their mean; else empty.
        ties: questions whose right answer is as similar as another that is not.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.suites import SuiteNumber
        >>> found = SuiteNumber.of_rows(np.array([True, False, True, True]), chance=0.5, resamples=200)
        >>> found.value, found.low < 0.75 < found.high
        (0.75, True)
    """

    value: float
    chance: float | None = None
    drawn: tuple[float, ...] = ()
    right: tuple[bool, ...] = field(default=(), repr=False)
    ties: int = 0

    @property
    def ends(self) -> tuple[float, float] | None:
        """Of the 95 % interval; None where nothing was drawn."""
        if not self.drawn:
            return None
        low, high = np.nanquantile(np.array(self.drawn), [0.025, 0.975])
        if low == high and self.right and self.value in (0.0, 1.0):  # drawing again tells nothing of all right or wrong
            found = wilson(sum(self.right), n=len(self.right))
            return found.low, found.high
        return float(low), float(high)

    @property
    def low(self) -> float:
        """Lower end of the interval; NaN where nothing was drawn."""
        return float("nan") if self.ends is None else self.ends[0]

    @property
    def high(self) -> float:
        """Upper end of the interval; NaN where nothing was drawn."""
        return float("nan") if self.ends is None else self.ends[1]

    @classmethod
    def of(
        cls,
        value: float,
        *,
        statistic: Statistic,
        rows: int,
        chance: float | None = None,
        resamples: int = 1000,
        seed: int = 0,
        ties: int = 0,
    ) -> SuiteNumber:
        """Any number that can be taken of images that count several times.

        Args:
            value: of the images as they are.
            statistic: see ``Statistic``.
            rows: how many images.
            chance: of a model that knows nothing.
            resamples: draws; 0 makes none.
            seed: of the draws.
            ties: see the attribute.
        """
        drawn = tuple(statistic(weights) for weights in draws(rows, resamples=resamples, seed=seed))
        return cls(value, chance, drawn, ties=ties)

    @classmethod
    def of_rows(
        cls,
        right: Bool[np.ndarray, " n"],
        *,
        chance: float | None = None,
        resamples: int = 1000,
        seed: int = 0,
        ties: int = 0,
    ) -> SuiteNumber:
        """The share of images that are right; arguments as for ``of``."""
        numbers = right.astype(np.float64)
        found = cls.of(
            float(numbers.mean()),
            statistic=lambda weights: float(weights @ numbers / len(numbers)),
            rows=len(numbers),
            chance=chance,
            resamples=resamples,
            seed=seed,
        )
        return cls(found.value, chance, found.drawn, tuple(map(bool, right)), ties)


def to_plain(found: SuiteNumber) -> dict[str, object]:
    """For JSON: ``right`` as zeros and ones in one text."""
    right = "".join("01"[one] for one in found.right)
    return {
        "value": found.value,
        "chance": found.chance,
        "ties": found.ties,
        "drawn": list(found.drawn),
        "right": right,
    }


def from_plain(value: Mapping[str, Any]) -> SuiteNumber:
    """Back from it.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    chance = None if value["chance"] is None else float(value["chance"])
    drawn = tuple(map(float, value["drawn"]))
    return SuiteNumber(
        float(value["value"]), chance, drawn, tuple(each == "1" for each in value["right"]), int(value["ties"])
    )
