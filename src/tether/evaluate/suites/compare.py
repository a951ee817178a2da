"""Which differences between models hold: paired over the same images, and corrected for how many are looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tether.core.errors import InputError
from tether.evaluate.holm import holm
from tether.evaluate.suites.number import SuiteNumber

LEVEL = 0.05
HEADLINES = (
    "acc1",
    "mean_average_precision",
    "image_retrieval_recall@5",
    "text_retrieval_recall@5",
    "acc",
    "lp_acc1",
)
"""The numbers that models are compared by, where a set has them."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Of two models in one number on one test set.

    Attributes:
        dataset: the set.
        metric: the number.
        first: a model.
        second: the other one.
        value: the first's number minus the second's.
        low: of the 95 % interval over the same images, of this comparison alone.
        high: of the same interval.
        p: how often such a difference comes by the choice of images alone, of this comparison alone.
        adjusted: the same by Holm's method for all comparisons together.
    """

    dataset: str
    metric: str
    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def real(self) -> bool:
        """Whether the difference holds at 5 % among all that were looked at."""
        return self.adjusted < LEVEL


def headlines(metrics: Sequence[str]) -> list[str]:
    """The numbers that a set is compared by; ``text_acc`` where there is no group score."""
    found = [name for name in HEADLINES if name in metrics]
    return found or [name for name in ("text_acc",) if name in metrics] or list(metrics[:1])


def compare(found: Mapping[tuple[str, str], Mapping[str, SuiteNumber]]) -> list[PairedDifference]:
    """Every pair of models on every set that both were measured on, by the headline numbers.

    The interval is that of the difference over the same draws of images. p is an exact sign test where a number is a
    share of right images, else that of a normal difference with the draws' spread. Holm's method goes over all of them.

    Args:
        found: numbers by model and set.

    Raises:
        InputError: two models were measured on other images or by other draws.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.suites import SuiteNumber, compare
        >>> some, none = np.arange(40) < 30, np.zeros(40, dtype=bool)
        >>> two = {("a", "s"): {"acc1": SuiteNumber.of_rows(some)}, ("b", "s"): {"acc1": SuiteNumber.of_rows(none)}}
        >>> found = compare(two)[0]
        >>> found.value, found.real
        (0.75, True)
    """
    sets = list(dict.fromkeys(dataset for _, dataset in found))
    models = list(dict.fromkeys(model for model, _ in found))
    rows = []
    for dataset in sets:
        here = {model: found[model, dataset] for model in models if (model, dataset) in found}
        for first, second in combinations(here, 2):
            for metric in headlines([name for name in here[first] if name in here[second]]):
                rows.append((dataset, metric, first, second, *_paired(here[first][metric], here[second][metric])))
    adjusted = holm([row[-1] for row in rows]).tolist()
    return [PairedDifference(*row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def _paired(first: SuiteNumber, second: SuiteNumber) -> tuple[float, float, float, float]:
    """Difference, both ends of its interval, and p."""
    if len(first.drawn) != len(second.drawn) or len(first.right) != len(second.right):
        raise InputError("two models were measured on other images or by other draws, so they cannot be compared")
    value = first.value - second.value
    drawn = np.array(first.drawn) - np.array(second.drawn)
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if len(drawn) else (math.nan, math.nan)
    if first.right:
        from scipy.stats import binomtest

        a, b = np.array(first.right), np.array(second.right)
        more, fewer = int((a & ~b).sum()), int((b & ~a).sum())
        p = float(binomtest(more, more + fewer).pvalue) if more + fewer else 1.0
    else:
        spread = float(np.nanstd(drawn)) if len(drawn) else 0.0
        p = (1.0 if value == 0 or not len(drawn) else 0.0) if spread == 0 else math.erfc(abs(value) / spread / 2**0.5)
    return value, float(low), float(high), p
