"""Two texts' rows as one row: what a head on pairs reads."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse

from tether.core.errors import InputError

Combine = Literal["pair", "concat", "offset", "mean", "both"]


def combined(first: Any, second: Any, *, how: Combine = "pair") -> Any:
    """(n, m) rows of (n, d) and (n, d) rows, dense or sparse.

    Source: ``pair`` is the usual [a, b, ab, |a - b|]; the others are arXiv 1906.02121's, whose code has ``offset`` as
    a - b; ``both`` is [a, b, a - b].

    Args:
        first: a.
        second: b, of the same shape.
        how: ``pair`` and ``offset`` see which is first; ``mean``, (a + b) / 2, does not.

    Raises:
        InputError: shapes that differ or have not two dimensions, or an unknown way.

    Example:
        >>> import numpy as np
        >>> from tether.tasks.norms import combined
        >>> combined(np.array([[1.0, 2.0]]), np.array([[3.0, 2.0]]), how="offset").tolist()
        [[-2.0, 0.0]]
    """
    a, b = (one if sparse.issparse(one) else np.asarray(one, dtype=np.float64) for one in (first, second))
    if a.shape != b.shape or len(a.shape) != 2:
        raise InputError(f"pairs: expected two arrays (n, d), got {a.shape} and {b.shape}")
    if how == "offset":
        return a - b
    if how == "mean":
        return (a + b) / 2
    if how == "concat":
        return joined([a, b])
    if how == "both":
        return joined([a, b, a - b])
    if how != "pair":
        raise InputError(f"combine: expected {', '.join(get_args(Combine))}, got {how!r}")
    return joined([a, b, _times(a, b), abs(a - b)])


def _times(a: Any, b: Any) -> Any:
    return a.multiply(b) if sparse.issparse(a) else a * b


def joined(parts: list[Any]) -> Any:
    """Columns side by side; sparse where any part is."""
    if any(sparse.issparse(part) for part in parts):
        return sparse.csr_matrix(sparse.hstack(parts))
    return np.hstack(parts)
