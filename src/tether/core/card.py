"""A paper's card: what it says, which parts hold it, and what one seed of its check measured. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Package = Literal[
    "data", "models", "losses", "optim", "space", "train", "adapt", "compress", "tasks", "generate", "evaluate"
]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the reproduction must show, fixed before it is run.

    Attributes:
        says: one sentence a reader understands.
        metric: name and unit of the compared number.
        better: whether ``ours`` should be higher or lower than ``baseline``.
        margin: least mean improvement that counts as reproduced, in units of the metric (> 0).
        baseline: what it is compared with.
        scale: the size at which it is checked here.
    """

    says: str
    metric: str
    better: Literal["higher", "lower"]
    margin: float
    baseline: str
    scale: str


@dataclass(frozen=True, slots=True)
class Card:
    """One published paper.

    Attributes:
        slug: file name with hyphens, e.g. ``w-clip``.
        title: as published.
        year: of first publication.
        arxiv: arXiv id, or the empty string.
        venue: where it appeared, or the empty string.
        code: official repository as ``owner/name``, or the empty string.
        package: where its one new idea lives.
        parts: dotted paths of the classes and functions that implement it.
        needs: what a user must have (``gradients``, ``pairs``, ``a trained encoder``...).
        gives: what a user gets, in one sentence.
        claim: what is checked here.
        differences: how this differs from the paper or its code, one sentence each.
        minutes: time of the whole reproduction on two cores.
        guide: file name of the how-to under docs/guides.
        authors: family names in the order of the paper, for the bibliography.
    """

    slug: str
    title: str
    year: int
    arxiv: str
    package: Package
    parts: tuple[str, ...]
    needs: tuple[str, ...]
    gives: str
    claim: Claim
    minutes: float
    guide: str
    venue: str = ""
    code: str = ""
    differences: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One seed of a reproduction: the metric without and with the method, and side figures worth keeping."""

    baseline: float
    ours: float
    notes: dict[str, float] = field(default_factory=dict)
