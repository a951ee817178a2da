"""AUROC and average precision of one finding, for all rows at once or for many resamples of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

AT_ONCE = 1 << 23
"""Weights that are held at a time."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A finding's rows in order of their scores, ready to be weighed.

    Attributes:
        order: (n,) rows, highest score first.
        starts: (g,) where each run of equal scores begins in that order.
        positive: (n,) truth in that order.
    """

    order: np.ndarray
    starts: np.ndarray
    positive: Bool[np.ndarray, " n"]


def ranked(scores: Float[np.ndarray, " n"], *, truth: Bool[np.ndarray, " n"]) -> Ranked:
    """Sort once; equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    fresh = np.r_[True, np.diff(scores[order]) != 0]
    return Ranked(order, np.flatnonzero(fresh), truth[order])


def curves(rows: Ranked, *, weights: Float[np.ndarray, "r n"]) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision under each row of weights; NaN where one class has no weight.

    AUROC is the chance that a positive scores above a negative, ties counting half. Average precision is the sum of
    precisions at each threshold, weighted by the gain in recall, without interpolation.
    """
    areas, precisions = [], []
    step = max(1, AT_ONCE // max(1, weights.shape[1]))
    for start in range(0, len(weights), step):
        found = weights[start : start + step, rows.order]
        positive = np.add.reduceat(found * rows.positive, rows.starts, axis=1)
        every = np.add.reduceat(found, rows.starts, axis=1)
        gained, seen = positive.cumsum(axis=1), every.cumsum(axis=1)
        total, rest = gained[:, -1], (seen - gained)[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            above = gained - positive / 2
            areas.append(((every - positive) * above).sum(axis=1) / (total * rest))
            share = np.where(seen > 0, gained / seen, 0.0)
            precision = (positive * share).sum(axis=1) / total
            precisions.append(np.where(rest > 0, precision, np.nan))
    return np.concatenate(areas), np.concatenate(precisions)
