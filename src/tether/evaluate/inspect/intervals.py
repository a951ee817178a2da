"""Numbers with their uncertainty, and how the sections of a report judge and write them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.finding import Bar, Figure, Unit
from tether.evaluate.bootstrap import interval
from tether.evaluate.groups import NORMAL_QUANTILE, wilson
from tether.evaluate.html.text import plain

RESAMPLES = 1000


def share(name: str, hits: Bool[Tensor, " n"]) -> Figure:
    """A share with Wilson's 95 % interval."""
    found = wilson(int(hits.sum()), n=len(hits))
    return Figure(name, found.rate, found.low, found.high, "share")


def mean(name: str, values: Float[Tensor, " n"], *, unit: Unit = "number", seed: int = 0) -> Figure:
    """A mean with its 95 % bootstrap interval over rows; differences of two measures of one row are paired so."""
    rows = values.double().numpy()[:, None]
    low, high = interval(rows, counts=np.ones_like(rows), resamples=RESAMPLES, seed=seed)[0]
    return Figure(name, float(rows.mean()), float(low), float(high), unit)


def difference(name: str, first: Float[Tensor, " n"], second: Float[Tensor, " m"], *, unit: Unit = "share") -> Figure:
    """Mean of the first less mean of the second, two groups of different rows, with its normal 95 % interval."""
    groups = [side.double() for side in (first, second)]
    value = float(groups[0].mean() - groups[1].mean())
    error = sum(float(side.var(unbiased=True)) / len(side) for side in groups) ** 0.5
    return Figure(name, value, value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error, unit)


def exact(name: str, value: float | Tensor, *, unit: Unit = "number") -> Figure:
    """A number that is what it is for these rows."""
    return Figure(name, float(value), unit=unit)


def shown(figure: Figure) -> str:
    """The value as words: per cent for shares, whole counts, three digits else."""
    return written(figure.value, figure.unit)


def written(value: float, unit: Unit) -> str:
    """One number as its unit is written."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if unit == "count" else plain(value)


def range_of(figure: Figure) -> str:
    """``low to high``, or nothing for an exact number."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (written(value, figure.unit).removesuffix(" %") for value in (figure.low, figure.high))
    return f"{low} to {high}"


def points(value: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * value:+.1f} points"


def surely_above(figure: Figure, limit: float) -> bool:
    """Whether the whole interval lies above a limit."""
    return figure.low is not None and figure.low > limit


def surely_below(figure: Figure, limit: float) -> bool:
    """Whether the whole interval lies below a limit."""
    return figure.high is not None and figure.high < limit


def bar_of(name: str, figure: Figure, *, strong: bool = False) -> Bar:
    """A figure as a bar with its interval."""
    return Bar(name, figure.value, figure.low, figure.high, strong)


def capitalised(said: str) -> str:
    """Words as the beginning of a sentence."""
    return said[0].upper() + said[1:]
