"""How results differ between groups: shares with their uncertainty, the worst group, who is at the top of a list."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked

NORMAL_QUANTILE = 1.959964
"""Of 0.975: half the width of a 95 % interval in standard deviations."""

Labels = Sequence[Hashable] | np.ndarray | Tensor
"""One label for each row: words or whole numbers."""


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of a group with Wilson's 95 % interval.

    Attributes:
        n: rows of the group.
        rate: fraction of them, NaN where there are none.
        low: lower end of the interval, NaN where there are no rows.
        high: upper end.
    """

    n: int
    rate: float
    low: float
    high: float

    def overlaps(self, other: Share) -> bool:
        """Whether the two intervals share a point; without rows nothing can be told apart, so they do."""
        return not (self.low > other.high or other.low > self.high)


@dataclass(frozen=True, slots=True)
class GroupAccuracy:
    """Accuracy in one group.

    Attributes:
        group: its labels, one for each attribute that the groups are made of.
        accuracy: fraction of its rows that are right.
    """

    group: tuple[Hashable, ...]
    accuracy: Share


@dataclass(frozen=True, slots=True)
class WorstGroup:
    """Accuracy over the groups that class and attribute make together.

    Attributes:
        worst: lowest accuracy of a group that has rows.
        group: which one that is, the first of several: (class, attribute).
        average: accuracy over all rows.
        groups: every group that has rows, in the order of its labels.
    """

    worst: float
    group: tuple[Hashable, ...]
    average: float
    groups: tuple[GroupAccuracy, ...]


@dataclass(frozen=True, slots=True)
class MaxSkew:
    """How far the top of a ranking is from the make-up of the pool.

    Attributes:
        mean: mean over queries of the absolute skew; 0 is ideal.
        each: (q,) skew of each query: the log of the largest ratio of a group's share among the first k to its share
            in the pool.
        top_shares: (q, g) shares of the groups among the first k.
        reference: (g,) shares they are compared with.
        names: (g) labels of the groups.
        k: how many were looked at.
    """

    mean: float
    each: Float[Tensor, " q"]
    top_shares: Float[Tensor, "q g"]
    reference: Float[Tensor, " g"]
    names: tuple[Hashable, ...]
    k: int


@checked
def wilson(count: int, *, n: int, quantile: Positive = NORMAL_QUANTILE) -> Share:
    """The share ``count / n`` with Wilson's interval, which stays inside [0, 1] and is sound for small n.

    Args:
        count: 0 to n.
        n: how many there are; 0 gives NaN.
        quantile: half the width in standard deviations.
    """
    if not 0 <= count <= n:
        raise InputError(f"expected a count from 0 to n, got {count} of {n}")
    if n == 0:
        return Share(0, math.nan, math.nan, math.nan)
    return Share(n, count / n, *wilson_ends(count / n, n=n, quantile=quantile))


def wilson_ends(rate: float, *, n: float | int, quantile: float = NORMAL_QUANTILE) -> tuple[float, float]:
    """The ends of Wilson's interval of a share.

    Args:
        rate: 0 to 1.
        n: above 0; of a weighted share the effective number of rows, which need not be whole.
        quantile: half the width in standard deviations.
    """
    square = quantile**2
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return centre - half if rate > 0 else 0.0, centre + half if rate < 1 else 1.0


def listed(labels: Labels) -> list[Hashable]:
    """The labels as Python's own values."""
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else labels
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def coded(
    labels: Labels, *, name: str, known: Sequence[Hashable] | None = None
) -> tuple[tuple[Hashable, ...], Int[Tensor, " n"]]:
    """The distinct labels and the number of each row's label among them.

    Args:
        labels: (n,) one for each row.
        name: what they are called in an error message.
        known: all labels there may be, in order; None takes those that occur, sorted.
    """
    values = listed(labels)
    if odd := [value for value in values if not isinstance(value, (str, int))]:
        raise InputError(f"{name}: expected a word or a whole number for each row, got {odd[0]!r}")
    names = tuple(dict.fromkeys(known)) if known is not None else tuple(sorted(set(values), key=_order))
    place = {value: at for at, value in enumerate(names)}
    if strange := [value for value in values if value not in place]:
        raise InputError(f"{name}: expected one of {', '.join(map(str, names))}, got {strange[0]!r}")
    return names, torch.tensor([place[value] for value in values], dtype=torch.int64)


def group_accuracy(
    predicted: Labels, *, labels: Labels, groups: Sequence[Labels], known: Sequence[Sequence[Hashable]] | None = None
) -> tuple[GroupAccuracy, ...]:
    """Accuracy in every intersection of some attributes, those without rows included.

    Args:
        predicted: (n,) what was said of each row.
        labels: (n,) what is true of it.
        groups: for each attribute its (n,) value in each row; one attribute gives plain groups, several their
            intersections.
        known: for each attribute all its values, so that empty groups are listed; None takes those that occur.
    """
    both = coded([*listed(predicted), *listed(labels)], name="predicted and labels")[0]
    said, true = (
        coded(side, name=name, known=both)[1] for side, name in ((predicted, "predicted"), (labels, "labels"))
    )
    if not len(groups):
        raise InputError("groups: expected the values of at least one attribute, got none")
    if known is not None and len(known) != len(groups):
        raise InputError(f"known: expected the values of {len(groups)} attributes, got {len(known)}")
    _equal_lengths({"predicted": said, "labels": true})
    names: list[tuple[Hashable, ...]] = [()]
    place = torch.zeros_like(said)
    for number, attribute in enumerate(groups):
        values, code = coded(
            attribute, name=f"groups, attribute {number}", known=None if known is None else known[number]
        )
        _equal_lengths({"predicted": said, f"attribute {number}": code})
        names = [(*before, value) for before in names for value in values]
        place = place * len(values) + code
    n = torch.bincount(place, minlength=len(names)).tolist()
    right = torch.bincount(place[said == true], minlength=len(names)).tolist()
    return tuple(GroupAccuracy(group, wilson(r, n=m)) for group, r, m in zip(names, right, n, strict=True))


def worst_group_accuracy(predicted: Labels, *, labels: Labels, attribute: Labels) -> WorstGroup:
    """The lowest accuracy over the groups of (class, attribute): what a shortcut costs where it does not hold.

    Args:
        predicted: (n,) class said of each row.
        labels: (n,) true class of each row.
        attribute: (n,) the attribute that should not matter.
    """
    every = group_accuracy(predicted, labels=labels, groups=(labels, attribute))
    found = [group for group in every if group.accuracy.n]
    if not found:
        raise InputError("worst-group accuracy needs at least one row, got none")
    worst = min(found, key=lambda group: group.accuracy.rate)
    rows = sum(group.accuracy.n for group in found)
    right = sum(round(group.accuracy.rate * group.accuracy.n) for group in found)
    return WorstGroup(worst.accuracy.rate, worst.group, right / rows, tuple(found))


@checked
def max_skew(
    scores: Float[Tensor, "*q n"],
    *,
    groups: Labels,
    k: Count,
    reference: Float[Tensor, " g"] | None = None,
) -> MaxSkew:
    """MaxSkew@k: the log of how over-represented the most over-represented group is among the first k of a ranking.

    Rankings are stable: of equal scores the first row comes first. A group that is absent from the top has skew minus
    infinity, which the largest of the others hides, so nothing is added to any share.

    Source: arXiv 1905.01989, as arXiv 2408.10202 reports it.

    Args:
        scores: (q, n) or (n,) how well each of the n rows of the pool fits each query; higher ranks first.
        groups: (n,) group of each row of the pool.
        k: how many are looked at; more than n are n.
        reference: (g,) fraction of each group, in the order of the sorted group labels, that would be fair; None takes
            the pool's.
    """
    rows = scores[None] if scores.ndim == 1 else scores
    if rows.ndim != 2 or not rows.numel():
        raise InputError(f"scores: expected (queries, pool) with at least one of each, got {tuple(scores.shape)}")
    if torch.isnan(rows).any():
        raise InputError("scores: expected numbers, got NaN")
    names, code = coded(groups, name="groups")
    if len(code) != rows.shape[1]:
        raise InputError(f"groups: expected one for each of {rows.shape[1]} rows of the pool, got {len(code)}")
    member = torch.nn.functional.one_hot(code, len(names)).double()
    fair = member.mean(dim=0) if reference is None else reference.double().cpu()
    if fair.shape != (len(names),) or not bool((fair > 0).all()):
        raise InputError(f"reference: expected {len(names)} shares above 0, got {fair.tolist()}")
    k = min(k, rows.shape[1])
    first = rows.cpu().argsort(dim=1, descending=True, stable=True)[:, :k]
    shares = member[first].mean(dim=1)
    each = (shares / fair).log().amax(dim=1)
    return MaxSkew(float(each.abs().mean()), each, shares, fair, names, k)


def _order(value: Hashable) -> tuple[bool, object]:
    return isinstance(value, str), value


def _equal_lengths(codes: dict[str, Tensor]) -> None:
    if len({len(code) for code in codes.values()}) > 1:
        said = " and ".join(f"{len(code)} of {name}" for name, code in codes.items())
        raise InputError(f"expected one of each a row, got {said}")
