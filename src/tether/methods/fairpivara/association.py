"""How images lean toward one of two lists of words: a summed bias, WEAT's effect size, and mutual information."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, checked
from tether.space.validation import checked_rows, unit_rows

TOP_TEXTS = 15
"""Most similar words that count for each image: arXiv 2409.19474, released code."""
EXACT_PARTITIONS = 10_000
SAMPLED_PARTITIONS = 9_999
"""WEAT's p is exact up to the first; beyond, this many random ones plus the observed one (released WEAT_test.py)."""
_LENGTH_TOLERANCE = 1e-3
_TIE = 1e-12  # of the summed sizes: sums of the same numbers in another order are equal
_SAMPLED_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Weat:
    """Association of two sets with two lists of words.

    Attributes:
        effect: difference of the mean associations in standard deviations of all of them, about -2 to 2.
        p: fraction of equal-size re-partitions whose first set is associated at least as much; None when not asked for.
        partitions: how many were looked at; 0 when none.
        associations: (x + y,) mean cosine to ``a`` minus mean cosine to ``b`` of each row, those of ``x`` first.
    """

    effect: float
    p: float | None
    partitions: int
    associations: Float[np.ndarray, " n"]


@checked
def association_bias(
    images: Float[np.ndarray, "n d"],
    *,
    positive: Float[np.ndarray, "p d"],
    negative: Float[np.ndarray, "u d"],
    top_k: Count = TOP_TEXTS,
) -> float:
    """Sum over images of the scores of their most similar words, positive words counting plus and negative minus.

    It is a sum, so it grows with the number of images: compare relative values of one set. It jumps where a word
    enters or leaves the first ``top_k``.

    Source: arXiv 2409.19474 (called a mean in the released code).

    Args:
        images: (n, d) unit embeddings.
        positive: (p, d) unit embeddings of the words that count plus.
        negative: (u, d) of those that count minus.
        top_k: words that count for each image; more than there are means all.

    Warns:
        UserWarning: rows that are not of length 1.
    """
    images, texts, signs = checked_words(images, positive=positive, negative=negative)
    return float(signed_top(images @ texts.T, signs=signs, top_k=top_k))


@checked
def weat(
    x: Float[np.ndarray, "n d"],
    *,
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "p d"],
    b: Float[np.ndarray, "u d"],
    test: Literal["permutation", "none"] = "permutation",
    seed: int = 0,
) -> Weat:
    """Whether the rows of ``x`` are more associated with ``a`` than with ``b`` compared with those of ``y``.

    Source: WEAT as arXiv 2409.19474 uses it (released WEAT_test.py): standard deviation with n - 1.

    Args:
        x: (n, d) embeddings of one concept, of any length but zero.
        y: (m, d) of the other.
        a: (p, d) embeddings of the words on one side.
        b: (u, d) of those on the other.
        test: ``permutation`` also gives p and needs sets of one size; ``none`` gives the effect size alone.
        seed: of the random re-partitions, where there are too many for all.
    """
    sets = {"x": x, "y": y, "a": a, "b": b}
    rows = {name: unit_rows(values) for name, values in _of_one_width(sets).items()}
    both = np.concatenate([rows["x"], rows["y"]])
    each = (both @ rows["a"].T).mean(axis=1) - (both @ rows["b"].T).mean(axis=1)
    n, m = len(rows["x"]), len(rows["y"])
    spread = each.std(ddof=1)
    if not spread > _TIE:
        raise InputError(f"all {n + m} associations are equal: an effect size is not defined")
    effect = float((each[:n].mean() - each[n:].mean()) / spread)
    if test == "none":
        return Weat(effect, None, 0, each)
    if n != m:
        raise InputError(f"a permutation test needs sets of one size, got {n} and {m}; test='none' gives the effect")
    p, partitions = _permutation(each, size=n, seed=seed)
    return Weat(effect, p, partitions, each)


@checked
def histogram_mi(
    x: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], *, bins: Count = 64, sigma: NonNegative = 1.0
) -> float:
    """Mutual information (nats) of one coordinate and a label, from a smoothed two-dimensional histogram.

    The estimate depends strongly on n and on the bins: with few rows it is far above zero for independent values, so
    a threshold belongs to the n it was set for.

    Source: arXiv 2409.19474, released utils/MI.py.

    Args:
        x: (n,) one coordinate of every row.
        labels: (n,) number of each row's class; a single class is allowed.
        bins: on each side.
        sigma: of the Gaussian that smooths the histogram, in bins; what lies beyond the edge is zero.
    """
    x, labels = np.asarray(x, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if x.ndim != 1 or x.shape != labels.shape or not len(x):
        raise InputError(f"expected one label for each of n values, n >= 1, got shapes {x.shape} and {labels.shape}")
    if not (np.isfinite(x).all() and np.isfinite(labels).all()):
        raise InputError("mutual information: the values hold NaN or infinity")
    joint = np.histogram2d(x, labels, bins=(bins, bins))[0]
    joint = ndimage.gaussian_filter(joint, sigma=sigma, mode="constant") + np.finfo(np.float64).eps
    joint /= joint.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    return float((joint * np.log(joint)).sum() - (rows * np.log(rows)).sum() - (columns * np.log(columns)).sum())


def checked_words(
    images: np.ndarray, *, positive: np.ndarray, negative: np.ndarray
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "t d"], Float[np.ndarray, " t"]]:
    """Images, the negative and then the positive words, and a sign for each word, all float64."""
    given = {"images": images, "negative": negative, "positive": positive}
    rows = _of_one_width(given, zeros=True)
    for name, values in rows.items():
        furthest = np.abs(np.linalg.norm(values, axis=1) - 1).max()
        if furthest > _LENGTH_TOLERANCE:
            warnings.warn(
                f"{name}: rows are up to {furthest:.3g} away from length 1; normalise them first", stacklevel=3
            )
    texts = np.concatenate([rows["negative"], rows["positive"]])
    signs = np.repeat([-1.0, 1.0], [len(rows["negative"]), len(rows["positive"])])
    return rows["images"], texts, signs


def signed_top(
    scores: Float[np.ndarray, "*b n t"], *, signs: Float[np.ndarray, " t"], top_k: int
) -> Float[np.ndarray, "*b"] | np.floating:
    """Sum over n of the signed scores of the ``top_k`` largest of t; ties go to the first."""
    first = np.argsort(-scores, axis=-1, kind="stable")[..., : min(top_k, scores.shape[-1])]
    return (np.take_along_axis(scores, first, axis=-1) * signs[first]).sum(axis=(-2, -1))


def _permutation(each: np.ndarray, *, size: int, seed: int) -> tuple[float, int]:
    """Fraction of re-partitions whose first set sums to at least what was observed, and how many there were."""
    limit = each[:size].sum() - _TIE * np.abs(each).sum()
    total = math.comb(len(each), size)
    if total <= EXACT_PARTITIONS:
        chosen = np.array(list(itertools.combinations(range(len(each)), size)))
        return float((each[chosen].sum(axis=1) >= limit).mean()), total
    draw = np.random.default_rng(seed)
    reached = 1  # the observed one
    for start in range(0, SAMPLED_PARTITIONS, _SAMPLED_AT_ONCE):
        count = min(_SAMPLED_AT_ONCE, SAMPLED_PARTITIONS - start)
        order = draw.random((count, len(each))).argpartition(size, axis=1)[:, :size]
        reached += int((each[order].sum(axis=1) >= limit).sum())
    return reached / (SAMPLED_PARTITIONS + 1), SAMPLED_PARTITIONS + 1


def _of_one_width(tables: Mapping[str, np.ndarray], *, zeros: bool = False) -> dict[str, Float[np.ndarray, "n d"]]:
    rows = {name: checked_rows(values, name=name, least=1, zeros=zeros) for name, values in tables.items()}
    if len({values.shape[1] for values in rows.values()}) > 1:
        raise InputError(f"expected one width, got { ({name: values.shape for name, values in rows.items()}) }")
    return rows
