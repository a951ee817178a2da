"""From ratings of people to labels and to the splits that few-label experiments use (arXiv 2110.04222)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, checked

LOW, HIGH = 2.5, 3.5  # released cross_val_clipprompt.py; the paper also tried 2.0 or 1.5 below
SPLIT_SEED = 42  # released dataset.py, of both draws
LEAST_OF_STRATUM = 2


@dataclass(frozen=True, slots=True)
class RatedLabels:
    """Images with a clear rating.

    Attributes:
        kept: (m,) rows of the ratings that are used, ascending.
        y: (m,) 1 where the rating is low, 0 where it is high.
        strata: (m,) rating rounded to the nearest whole number, halves to the even one.
    """

    kept: Int[np.ndarray, " m"]
    y: Int[np.ndarray, " m"]
    strata: Int[np.ndarray, " m"]


@dataclass(frozen=True, slots=True)
class Split:
    """One division of the kept images.

    Attributes:
        train: positions that are learnt from, in the order of the draw.
        test: positions that are held back; they do not depend on how many are learnt from.
    """

    train: Int[np.ndarray, " k"]
    test: Int[np.ndarray, " t"]


def ratings_to_labels(
    ratings: Float[np.ndarray, " n"] | Sequence[float], *, low: float = LOW, high: float = HIGH
) -> RatedLabels:
    """Label clear ratings and leave out what lies between.

    Source: arXiv 2110.04222, section 4, and its released smid/dataset.py. Where a high rating is the bad one (harm),
    the labels stay as they are and the two start texts of the classifier change places, as in the release.

    Args:
        ratings: (n,) mean rating of each image; the paper's run from 1 (bad) to 5 (good).
        low: below it an image has label 1.
        high: above it an image has label 0; exactly at a threshold it is left out.

    Raises:
        InputError: nothing is left of one label; the counts are said.
    """
    given = np.asarray(ratings, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise InputError(f"ratings: expected one number for each image, got shape {given.shape}")
    bad = np.flatnonzero(~np.isfinite(given))
    if len(bad):
        raise InputError(f"ratings: {len(bad)} of {len(given)} are NaN or infinite, the first is row {bad[0]}")
    if not low < high:
        raise InputError(f"expected low below high, got low={low} and high={high}")
    kept = np.flatnonzero((given < low) | (given > high))
    y = (given[kept] < low).astype(np.int64)
    if not 0 < y.sum() < len(y):
        raise InputError(
            f"only one class is left of {len(given)} ratings: {int(y.sum())} below {low} and {int((y == 0).sum())} "
            f"above {high}; move the thresholds"
        )
    return RatedLabels(kept, y, np.rint(given[kept]).astype(np.int64))


@checked
def rated_splits(
    y: Int[np.ndarray, " m"],
    *,
    strata: Int[np.ndarray, " m"],
    n_splits: Count = 10,
    test_size: Inner = 0.1,
    train_size: Annotated[float, Gt(0), Le(1)] = 1.0,
    seed: int = SPLIT_SEED,
) -> tuple[Split, ...]:
    """Repeated draws of a test part, stratified by rating, and of a fraction of the rest to learn from.

    The fraction is a second stratified draw inside the training part, with the same seed in every split. So the test
    parts of two shares are equal.

    Source: arXiv 2110.04222, released smid/dataset.py: scikit-learn's ``StratifiedShuffleSplit``, stratified by
    ``strata`` and not by ``y``.

    Args:
        y: (m,) labels; a split whose training part lacks one of them is refused.
        strata: (m,) what both draws are stratified by, as ``ratings_to_labels`` gives them.
        n_splits: how many.
        test_size: fraction that is held back.
        train_size: fraction of the others that is learnt from.
        seed: of both draws.

    Raises:
        InputError: a stratum with fewer than two rows, too few rows for a draw, or a training part of one label.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    labels, groups = np.asarray(y), np.asarray(strata)
    if labels.ndim != 1 or labels.shape != groups.shape:
        raise InputError(f"expected one label and one stratum for each row, got {labels.shape} and {groups.shape}")
    _check_strata(groups)
    outer = StratifiedShuffleSplit(n_splits=n_splits, test_size=test_size, random_state=seed)
    splits = []
    for train, test in _drawn(outer, groups):
        part = train
        if train_size < 1:
            _check_strata(groups[train])
            inner = StratifiedShuffleSplit(n_splits=1, train_size=train_size, random_state=seed)
            part = train[_drawn(inner, groups[train])[0][0]]
        if len(np.unique(labels[part])) < len(np.unique(labels)):
            raise InputError(
                f"a training part of {len(part)} rows holds one class only: {_counts(labels[part])}; all rows: "
                f"{_counts(labels)}"
            )
        splits.append(Split(part, test))
    return tuple(splits)


def _drawn(splitter: object, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    try:
        return list(splitter.split(np.zeros(len(groups)), groups))  # pyrefly: ignore - scikit-learn has no types
    except ValueError as error:
        raise InputError(f"{error} (rows of each stratum: {_counts(groups)})") from error


def _check_strata(groups: np.ndarray) -> None:
    small = {value: count for value, count in Counter(groups.tolist()).items() if count < LEAST_OF_STRATUM}
    if small or not len(groups):
        raise InputError(
            f"strata: expected at least {LEAST_OF_STRATUM} rows of each, got {_counts(groups) or 'none at all'}"
        )


def _counts(values: np.ndarray) -> str:
    return ", ".join(f"{count} of {value}" for value, count in sorted(Counter(values.tolist()).items()))
