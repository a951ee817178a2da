"""How well scores order images: Spearman's rank correlation, with intervals from a bootstrap over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

LEAST = 3
"""Images that a group needs to count."""


@dataclass(frozen=True, slots=True)
class OrderCorrelation:
    """Spearman's correlation of several ways to score the same images; chance is 0.

    Attributes:
        value: (w,) of each way, the mean over groups.
        draws: (resamples, w) the same over images drawn again.
        n: images.
    """

    value: Float[np.ndarray, " w"]
    draws: Float[np.ndarray, "r w"]
    n: int

    def interval(self, way: int = 0) -> tuple[float, float]:
        """95 % interval of one way."""
        low, high = np.quantile(self.draws[:, way], [0.025, 0.975])
        return float(low), float(high)


@checked
def order_correlation(
    scores: Float[np.ndarray, "n w"],
    *,
    targets: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"] | None = None,
    resamples: Count = 1000,
    seed: int = 0,
) -> OrderCorrelation:
    """Compare orders by scores with the order by targets; a way that gives all images one score counts 0.

    Args:
        scores: of n images, by w ways.
        targets: the true numbers.
        groups: images that are ordered together; None takes all. Groups of fewer than ``LEAST`` do not count.
        resamples: of the bootstrap.
        seed: of its draws.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, or no group that is large enough.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.order import order_correlation
        >>> targets = np.arange(5.0)
        >>> order_correlation(np.stack([targets**2, -targets], axis=1), targets=targets).value.round(6).tolist()
        [1.0, -1.0]
    """
    of = np.zeros(len(targets), int) if groups is None else groups
    shapes = scores.shape, targets.shape, of.shape
    if scores.ndim != 2 or shapes[1] != shapes[0][:1] or shapes[2] != shapes[1]:
        raise InputError(f"order: expected (n, w) scores, (n,) targets and (n,) groups, got {shapes}")
    if not (np.isfinite(scores).all() and np.isfinite(targets).all()):
        raise InputError("order: expected finite scores and targets, got NaN or infinity")
    parts = [rows for rows in (np.flatnonzero(of == one) for one in np.unique(of)) if len(rows) >= LEAST]
    if not parts:
        raise InputError(f"order: expected at least {LEAST} images to compare an order by, got {len(targets)}")
    rng = np.random.default_rng(seed)
    draws = [_mean(scores, targets, [rng.choice(rows, len(rows)) for rows in parts]) for _ in range(resamples)]
    return OrderCorrelation(_mean(scores, targets, parts), np.stack(draws), sum(map(len, parts)))


def _mean(scores: np.ndarray, targets: np.ndarray, parts: list[np.ndarray]) -> Float[np.ndarray, " w"]:
    return np.mean([_spearman(scores[rows], targets[rows]) for rows in parts], axis=0)


def _spearman(scores: Float[np.ndarray, "n w"], targets: Float[np.ndarray, " n"]) -> Float[np.ndarray, " w"]:
    from scipy.stats import rankdata

    both = rankdata(np.column_stack([scores, targets]), axis=0)
    both -= both.mean(axis=0)
    length = np.sqrt(np.square(both).sum(axis=0))
    product = length[:-1] * length[-1]
    return np.divide(both[:, :-1].T @ both[:, -1], product, out=np.zeros(len(product)), where=product > 0)
