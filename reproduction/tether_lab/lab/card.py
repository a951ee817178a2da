"""A paper's card: what it says, which parts hold it, and what one seed of its check measured. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from tether.core.errors import InputError
from tether.core.method_files import FILE, FOLDER, read_method

Better = Literal["higher", "lower"]
Kind = Literal["better", "no_worse", "property"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One more thing that the paper says of the same runs, such as that retrieval is kept.

    Its improvement of a seed is how far ``ours`` lies on the better side of ``than``. It holds if the one-sided 95 %
    lower bound of the mean is above 0 and the mean at least ``least``; for ``least`` of 0 or below, which is an
    allowance, if the bound is not below it.

    Attributes:
        says: one sentence a reader understands, with the amount in it.
        ours: name of the figure: ``ours``, ``baseline`` or a note of the trial.
        than: what it is compared with: a figure of the same trial by name, or a number.
        better: whether ``ours`` should be higher or lower.
        least: least mean improvement, in units of the figure; below 0 it is how much worse it may be.
    """

    says: str
    ours: str = "ours"
    than: str | float
    better: Better = "higher"
    least: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the reproduction must show, fixed before it is run.

    Attributes:
        says: one sentence a reader understands.
        metric: name and unit of the compared number.
        better: whether ``ours`` should be higher or lower than ``baseline``.
        margin: least mean improvement that counts as reproduced, in units of the metric (> 0); of a ``no_worse`` claim
            the allowance (> 0); 0 of a ``property``.
        baseline: what it is compared with: the strongest simple method at equal cost, or the bound of a ``property``.
        scale: the size at which it is checked here.
        kind: ``better`` than the baseline by the margin, ``no_worse`` than it by more than the margin, or a
            ``property``: an identity or a bound, which holds on every seed and is never called reproduced.
        equal: what both sides spend equally, such as steps, images seen and trials of the learning rate.
        conditions: what else must hold; see ``Condition``.
    """

    says: str
    metric: str
    better: Better = "higher"
    margin: float
    baseline: str
    scale: str
    kind: Kind = "better"
    equal: str = ""
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """One published paper: what its ``method.toml`` says of it, and what is checked here.

    Attributes:
        slug: folder name with hyphens, e.g. ``w-clip``.
        title: as published.
        year: of first publication.
        arxiv: arXiv id, or the empty string.
        parts: dotted paths of the classes and functions that implement it; the first is its one new idea.
        needs: what a user must have (``gradients``, ``pairs``, ``a trained encoder``...).
        gives: what a user gets, in one sentence.
        claim: what is checked here.
        minutes: time of the whole reproduction on two cores.
        guide: file name of the how-to under docs/guides.
        venue: where it appeared, or the empty string.
        code: official repository as ``owner/name``, or the empty string.
        differences: how this differs from the paper or its code, one sentence each.
        authors: family names in the order of the paper, for the bibliography.
        tried: test beds, metrics and configurations before or beside the claim's, each with what came out.
    """

    slug: str
    title: str
    year: int
    arxiv: str
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
    tried: Mapping[str, str] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The package of Tether in which its one new idea lies."""
        return self.parts[0].split(".")[1]

    @classmethod
    def of(
        cls,
        slug: str,
        *,
        claim: Claim,
        minutes: float,
        differences: tuple[str, ...] = (),
        tried: Mapping[str, str] = MappingProxyType({}),
    ) -> Card:
        """The card of a method that Tether has; see the attributes.

        Raises:
            InputError: no such method, or one whose ``method.toml`` does not name the paper.
        """
        path = FOLDER / slug.replace("-", "_") / FILE
        values = read_method(path, package="").values
        if missing := [name for name in ("title", "year", "gives", "needs", "parts") if name not in values]:
            raise InputError(f"{path}: key {missing[0]!r} is missing")
        return cls(
            slug,
            claim=claim,
            minutes=minutes,
            differences=differences,
            tried=tried,
            parts=tuple(values["parts"]),
            needs=tuple(values["needs"]),
            authors=tuple(values.get("authors", ())),
            **{name: values[name] for name in ("title", "year", "gives")},
            **{name: values.get(name, "") for name in ("arxiv", "guide", "venue", "code")},
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One seed of a reproduction: the metric without and with the method, and side figures worth keeping."""

    baseline: float
    ours: float
    notes: dict[str, float] = field(default_factory=dict)
