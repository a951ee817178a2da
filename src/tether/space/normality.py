"""How close the columns of a matrix are to independent standard normals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from tether.core.errors import InputError
from tether.space.validation import checked_rows

ANDERSON_LIMIT = 0.752  # 5 % point with mean and variance estimated, Stephens 1974 as tabled by D'Agostino 1986
LEAST_ROWS = 20  # the D'Agostino-Pearson test's kurtosis part is not valid below


@dataclass(frozen=True, slots=True)
class NormalityReport:
    """Two normality tests for each column, and what is left of correlation.

    Attributes:
        anderson: (d,) Anderson-Darling statistic, corrected for n; below 0.752 normality stands at 5 %.
        dagostino: (d,) D'Agostino-Pearson K^2.
        dagostino_p: (d,) its p value.
        anderson_passed: fraction of columns whose Anderson-Darling statistic is below the 5 % point.
        dagostino_passed: fraction of columns with p > 0.05.
        largest_mean: largest absolute column mean.
        largest_correlation: largest absolute correlation of two different columns (0 for one column).
        rows: how many rows were tested.
    """

    anderson: Float[np.ndarray, " d"]
    dagostino: Float[np.ndarray, " d"]
    dagostino_p: Float[np.ndarray, " d"]
    anderson_passed: float
    dagostino_passed: float
    largest_mean: float
    largest_correlation: float
    rows: int


def normality(columns: Float[np.ndarray, "n d"]) -> NormalityReport:
    """Test each column for normality (W-CLIP, arXiv 2505.06934, section 4 uses the same two tests)."""
    x = checked_rows(columns, name="columns", least=LEAST_ROWS, zeros=True)
    deviation = x.std(axis=0, ddof=1)
    if not deviation.all():
        raise InputError(f"normality: columns {np.flatnonzero(deviation == 0)[:5].tolist()} are constant")
    statistic, p_value = stats.normaltest(x, axis=0)
    statistic, p_value = np.asarray(statistic), np.asarray(p_value)
    anderson = _anderson_darling((x - x.mean(axis=0)) / deviation)
    correlation = np.atleast_2d(np.corrcoef(x, rowvar=False)) - np.eye(x.shape[1])
    return NormalityReport(
        anderson=anderson,
        dagostino=statistic,
        dagostino_p=p_value,
        anderson_passed=float((anderson < ANDERSON_LIMIT).mean()),
        dagostino_passed=float((p_value > 0.05).mean()),
        largest_mean=float(np.abs(x.mean(axis=0)).max()),
        largest_correlation=float(np.abs(correlation).max()),
        rows=len(x),
    )


def _anderson_darling(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    n = len(z)
    z = np.sort(z, axis=0, kind="stable")
    weight = (2 * np.arange(1, n + 1) - 1)[:, None]
    raw = -n - (weight * (special.log_ndtr(z) + special.log_ndtr(-z[::-1]))).mean(axis=0)
    return raw * (1 + 0.75 / n + 2.25 / n**2)
