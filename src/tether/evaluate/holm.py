"""Holm's correction for many tests (Scandinavian Journal of Statistics 6, 1979)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def holm(p: Sequence[float] | Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Adjusted p of each test, in their order.

    Example:
        >>> from tether.evaluate.holm import holm
        >>> holm([0.01, 0.5, 0.02]).tolist()
        [0.03, 0.5, 0.04]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
