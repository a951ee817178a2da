"""Which classes zero-shot takes for which."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

MOST_CLASSES = 30


@dataclass(frozen=True, slots=True)
class Mistake:
    """One pair of classes and how often the first was called the second."""

    true: str
    named: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """A table for the page; classes beyond ``MOST_CLASSES`` are left out of it, the rarest first.

    Attributes:
        names: of the classes shown.
        shares: rows sum to 1 where all columns are shown; row is the true class.
        counts: the same, counted.
        recalls: share right of each class shown.
        left_out: how many classes are not shown.
        mistakes: the most frequent confusions among all classes.
    """

    names: list[str]
    shares: list[list[float]]
    counts: list[list[int]]
    recalls: list[float]
    left_out: int
    mistakes: list[Mistake]


def confusion(table: Int[Tensor, "c c"], *, names: tuple[str, ...]) -> Confusion:
    """From counts, rows being true classes."""
    total = table.sum(dim=1)
    share = table.double() / total.clamp_min(1)[:, None]
    shown = sorted(total.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist())
    wrong = table.clone()
    wrong.fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:8].tolist()
    mistakes = [
        Mistake(names[row], names[column], int(wrong[row, column]), float(share[row, column]))
        for row, column in (divmod(place, len(names)) for place in order)
        if wrong[row, column] > 0
    ]
    return Confusion(
        names=[names[row] for row in shown],
        shares=share[shown][:, shown].tolist(),
        counts=table[shown][:, shown].tolist(),
        recalls=share.diagonal()[shown].tolist(),
        left_out=len(names) - len(shown),
        mistakes=mistakes,
    )
