"""How much all vectors point the same way, and how much the occurrences of one word do."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.space.validation import checked_rows, unit_rows


@checked
def anisotropy(x: Float[np.ndarray, "n d"], *, pairs: Count | None = None, seed: int = 0) -> float:
    """Mean cosine of two different vectors: near 0 for directions spread evenly, near 1 for a narrow cone.

    Exact over all pairs at the price of one sum, so sampling is only of use to match other reports. A common offset
    raises it and removing one lowers it, whatever else it does: do not judge by this number alone.

    Source: arXiv 2011.04393, section 4.

    Args:
        x: one vector a row; rows of length zero are left out with a warning.
        pairs: draw this many pairs at random instead of taking all.
        seed: of that draw.
    """
    unit, _ = _unit(x)
    n = len(unit)
    if n < 2:
        raise InputError(f"expected at least two vectors that are not zero, got {n}")
    if pairs is None:
        return float((np.square(unit.sum(axis=0)).sum() - n) / (n * (n - 1)))
    draw = np.random.default_rng(seed)
    first = draw.integers(n, size=pairs)
    second = (first + 1 + draw.integers(n - 1, size=pairs)) % n
    return float(np.einsum("ij,ij->i", unit[first], unit[second]).mean())


@checked
def self_similarity(
    x: Float[np.ndarray, "n d"], word_ids: np.ndarray, *, adjust: Literal["none", "anisotropy"] = "none"
) -> float:
    """Mean cosine of two occurrences of one word, averaged over the words that occur at least twice.

    Source: arXiv 2011.04393, section 4 (after arXiv 1909.00512).

    Args:
        x: one occurrence a row; rows of length zero are left out with a warning.
        word_ids: (n,) equal for occurrences of one word.
        adjust: ``anisotropy`` subtracts the mean cosine of all pairs.
    """
    words = np.asarray(word_ids)
    if words.shape != np.shape(x)[:1]:
        raise InputError(f"expected one word for each of {len(x)} rows, got shape {words.shape}")
    unit, kept = _unit(x)
    _, place, count = np.unique(words[kept], return_inverse=True, return_counts=True)
    if not (count > 1).any():
        raise InputError("word_ids: no word occurs twice")
    order = np.argsort(place, kind="stable")
    sums = np.add.reduceat(unit[order], np.concatenate([[0], np.cumsum(count)[:-1]]), axis=0)
    several = count > 1
    n = count[several]
    each = (np.square(sums[several]).sum(axis=1) - n) / (n * (n - 1))
    return float(each.mean()) - (anisotropy(np.asarray(x)[kept]) if adjust == "anisotropy" else 0.0)


def _unit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 in float64, and which rows of ``x`` they are."""
    rows = checked_rows(x, name="x", least=0, zeros=True)
    kept = np.flatnonzero(rows.any(axis=1))
    if len(kept) < len(rows):
        warnings.warn(f"{len(rows) - len(kept)} of {len(rows)} vectors are zero and are left out", stacklevel=3)
    return unit_rows(rows[kept]), kept
