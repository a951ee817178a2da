"""Rows by their scores: the best fraction of them, or those above a limit. Equal scores go to the earlier row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from tether.core.errors import InputError

LEAST_CLIP_SCORE, LEAST_AESTHETIC = 0.3, 4.5
"""What the README of opendatalab/CLIP-Parrot-Bias (commit a1552ce) asks a pair to exceed."""


def top_rows(scores: Float[np.ndarray, " n"], *, fraction: float) -> Int[np.ndarray, " k"]:
    """The floor(fraction * n) rows with the largest scores, in rising order; ties go to the smaller row.

    Args:
        scores: of the n rows that could be scored, finite: a fraction of what was lost before means nothing.
        fraction: in (0, 1].
    """
    scores = checked_scores(scores)
    check_fraction(fraction)
    kept = math.floor(fraction * len(scores))
    return np.sort(np.argsort(-scores, kind="stable")[:kept])


def rows_from(scores: Float[np.ndarray, " n"], *, threshold: float) -> Int[np.ndarray, " k"]:
    """The rows whose score is at least the threshold, in rising order."""
    check_threshold(threshold)
    return np.flatnonzero(checked_scores(scores) >= threshold)


def select_unparroted(
    has_text: Bool[np.ndarray, " n"] | Sequence[bool] | Sequence[int],
    *,
    clip_score: Float[np.ndarray, " n"] | Sequence[float],
    aesthetic: Float[np.ndarray, " n"] | Sequence[float] | None = None,
    least_clip_score: float = LEAST_CLIP_SCORE,
    least_aesthetic: float = LEAST_AESTHETIC,
) -> Int[np.ndarray, " k"]:
    """Rows whose image shows no text and whose scores are above both limits, in rising order.

    Source: README of opendatalab/CLIP-Parrot-Bias; all comparisons are strict. Its last step, near-duplicates, is the
    step ``embedding_duplicates`` of a recipe.

    Args:
        has_text: whether any text was detected in each image.
        clip_score: cosine of image and caption.
        aesthetic: of any predictor on the scale of the limit; None leaves this rule out.
        least_clip_score: what the cosine must exceed.
        least_aesthetic: what the aesthetic score must exceed.
    """
    marks = np.asarray(has_text)
    if marks.ndim != 1 or not np.isin(marks, (0, 1)).all():
        raise InputError(f"has_text: expected (n,) marks 0 or 1, got {marks.dtype} {marks.shape}")
    kept = marks == 0
    rules = [("clip_score", clip_score, least_clip_score)]
    if aesthetic is not None:
        rules.append(("aesthetic", aesthetic, least_aesthetic))
    for name, given, least in rules:
        scores = checked_scores(given, name=name)
        if len(scores) != len(marks):
            raise InputError(f"{name}: expected one score for each of {len(marks)} rows, got {len(scores)}")
        check_threshold(least, name=f"least_{name}")
        kept &= scores > least
    return np.flatnonzero(kept)


def subsets_by(values: Float[np.ndarray, " n"], *, edges: Sequence[float]) -> tuple[Int[np.ndarray, " k"], ...]:
    """Rows by the bin that their value falls into, for training sets that differ in one respect.

    With m rising edges there are m + 1 bins: below the first edge, from each edge to below the next, and from the last
    on. Source: arXiv 2312.14232, where the values are numbers of embedded words, coverages, or what removing the text
    takes from the score.
    """
    values = checked_scores(values, name="values")
    if any(not left < right for left, right in itertools.pairwise(edges)) or not len(edges):
        raise InputError(f"edges: expected at least one, rising, got {list(edges)}")
    place = np.searchsorted(np.asarray(edges, np.float64), values, side="right")
    return tuple(np.flatnonzero(place == index) for index in range(len(edges) + 1))


def checked_scores(
    scores: Float[np.ndarray, " n"] | Sequence[float], *, name: str = "scores"
) -> Float[np.ndarray, " n"]:
    """(n,) float64, after a look at shape and values."""
    try:
        found = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected (n,) numbers, got {type(scores).__name__}") from error
    if found.ndim != 1:
        raise InputError(f"{name}: expected (n,), got {found.shape}")
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise InputError(f"{name}: {len(bad)} of {len(found)} are NaN or infinite, the first is row {bad[0]}")
    return found


def check_fraction(fraction: float) -> None:
    """Refuse a fraction outside (0, 1]."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise InputError(f"fraction: expected a number in (0, 1], got {fraction!r}")


def check_threshold(threshold: float, *, name: str = "threshold") -> None:
    """Refuse a threshold that is no finite number."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
        raise InputError(f"{name}: expected a finite number, got {threshold!r}")
