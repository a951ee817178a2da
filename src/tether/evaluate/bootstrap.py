"""How far a mean could be off because of which rows were drawn: percentile bootstrap over whole images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, checked

_MOST_DRAWS = 200_000_000  # above this many drawn rows the number of resamples is lowered, down to _LEAST
_LEAST = 100


@checked
def draws(rows: Count, *, resamples: int, seed: int = 0) -> Iterator[Float[np.ndarray, " n"]]:
    """How often each row is drawn, draw by draw; one seed gives every model and number the same draws.

    Args:
        rows: images.
        resamples: draws of as many rows with replacement; fewer, but not under 100, where they would take long.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    for _ in range(min(resamples, max(_LEAST, _MOST_DRAWS // rows))):
        yield np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)


@checked
def interval(
    sums: Float[np.ndarray, "n c"],
    *,
    counts: Float[np.ndarray, "n c"],
    resamples: Count = 1000,
    level: Inner = 0.95,
    seed: int = 0,
) -> Float[np.ndarray, "c 2"]:
    """Lower and upper bound of ``sum(sums) / sum(counts)`` for each column, the clusters being resampled whole.

    An image's captions stand or fall together, so the image is what is drawn again.

    Args:
        sums: (n, c) what each image adds to each numerator.
        counts: (n, c) what it adds to each denominator.
        resamples: how often to draw n images with replacement.
        level: of confidence, two-sided.
        seed: of the draws.
    """
    if sums.ndim != 2 or sums.shape != counts.shape or not len(sums):
        raise InputError(f"bootstrap: expected equal (n, c) arrays with n > 0, got {sums.shape} and {counts.shape}")
    means = []
    for weight in draws(len(sums), resamples=resamples, seed=seed):
        total = weight @ counts
        means.append(np.divide(weight @ sums, total, out=np.full(len(total), np.nan), where=total > 0))
    tail = (1 - level) / 2
    return np.nanquantile(means, [tail, 1 - tail], axis=0).T
