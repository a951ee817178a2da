"""How far an image is from its headline, and whether some outlets choose worse ones (arXiv 2204.05533)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.methods.fake_thumbnail.mismatch import paired_units
from tether.models.embed import encode_images, encode_texts

_BATCH = 256
LEAST = 2
"""Scores of a group that a test takes."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Scores of one group.

    Attributes:
        name: of the group.
        n: how many.
        mean: of them.
        deviation: standard deviation with n - 1, NaN for one score.
        quartiles: first, median, third.
    """

    name: Hashable
    n: int
    mean: float
    deviation: float
    quartiles: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class GroupTest:
    """One group against another.

    Attributes:
        first: name of the group with the larger number in the difference.
        second: name of the other.
        difference: mean of the first less mean of the second.
        cohens_d: that difference over the pooled standard deviation; infinite, or 0, where nothing varies.
        u: Mann-Whitney statistic of the first group.
        p: two-sided p-value of it.
        auroc: chance that a score of the first is larger than one of the second, ties half.
    """

    first: Hashable
    second: Hashable
    difference: float
    cohens_d: float
    u: float
    p: float
    auroc: float


@dataclass(frozen=True, slots=True)
class GroupProfile:
    """Scores by group.

    Attributes:
        table: one entry a group, in the order of their first row.
        tests: every pair of groups with at least two scores each.
    """

    table: tuple[GroupScores, ...]
    tests: tuple[GroupTest, ...]

    @property
    def means(self) -> Float[np.ndarray, " g"]:
        """Mean score of each group, in the order of the table."""
        return np.array([group.mean for group in self.table])


def incongruity(
    model: DualEncoder, *, images: Tensor | Iterable[Tensor], texts: Sequence[str]
) -> Float[np.ndarray, " n"]:
    """1 - cos(image, title) of each pair, from 0 (fits) to 2.

    Source: arXiv 2204.05533, section 3.

    Args:
        model: any model that ``tether.load`` gives.
        images: (n, 3, h, w) images, uint8 or normalised floats, or batches of such.
        texts: n titles; longer ones are cut at the model's context.
    """
    batches = images.split(_BATCH) if isinstance(images, Tensor) else images
    image, title = encode_images(model, batches), encode_texts(model, texts)
    return pair_incongruity(image.double().numpy(), texts=title.double().numpy())


def pair_incongruity(images: Float[np.ndarray, "n d"], *, texts: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """1 - cosine of row i with row i, from embeddings of any length above zero."""
    image, title = paired_units(images, texts=texts)
    return 1 - (image * title).sum(axis=1)


def group_profile(scores: Float[np.ndarray, " n"] | Sequence[float], *, groups: Sequence[Hashable]) -> GroupProfile:
    """Distribution of scores by group, and every pair of groups compared.

    For outlets of two kinds call it twice: with the outlet of each article, then with ``means`` and the kind of each
    outlet, so that an outlet counts once however many articles it has.

    Source: arXiv 2204.05533, section 3, compares means of outlets; effect size and test are our choice.

    Args:
        scores: (n,) such as ``incongruity``.
        groups: (n,) name of the group of each.
    """
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or isinstance(groups, str) or len(given) != len(groups) or not len(given):
        raise InputError(f"expected a group for each score, got scores {given.shape} and {len(groups)} groups")
    if not np.isfinite(given).all():
        raise InputError(f"scores: {int((~np.isfinite(given)).sum())} of {len(given)} are NaN or infinite")
    names = list(dict.fromkeys(groups))
    place = {name: number for number, name in enumerate(names)}
    codes = np.array([place[name] for name in groups])
    parts = [given[codes == number] for number in range(len(names))]
    table = tuple(_described(name, part) for name, part in zip(names, parts, strict=True))
    tests = tuple(
        _compared(names[i], parts[i], names[j], parts[j])
        for i, j in combinations(range(len(names)), 2)
        if min(len(parts[i]), len(parts[j])) >= LEAST
    )
    return GroupProfile(table, tests)


def _described(name: Hashable, part: np.ndarray) -> GroupScores:
    low, middle, high = (float(value) for value in np.quantile(part, (0.25, 0.5, 0.75)))
    mean, variance = _moments(part)
    return GroupScores(name, len(part), mean, math.sqrt(variance), (low, middle, high))


def _moments(part: np.ndarray) -> tuple[float, float]:
    """Mean and variance, exact where all numbers are equal, whose computed mean is rounded; NaN variance of one."""
    if part.min() == part.max():
        return float(part[0]), 0.0 if len(part) > 1 else math.nan
    return float(part.mean()), float(part.var(ddof=1))


def _compared(first: Hashable, one: np.ndarray, second: Hashable, other: np.ndarray) -> GroupTest:
    from scipy.stats import mannwhitneyu

    (mean, variance), (other_mean, other_variance) = _moments(one), _moments(other)
    difference = mean - other_mean
    freedom = len(one) + len(other) - 2
    pooled = math.sqrt(((len(one) - 1) * variance + (len(other) - 1) * other_variance) / freedom)
    effect = difference / pooled if pooled > 0 else math.copysign(math.inf, difference) if difference else 0.0
    found = mannwhitneyu(one, other, alternative="two-sided")
    u = float(found.statistic)
    return GroupTest(first, second, difference, effect, u, float(found.pvalue), u / (len(one) * len(other)))
