"""One thing that a person should look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row, or a caption of it, that is likely wrong.

    Attributes:
        kind: ``label``, ``caption``, ``copy`` or ``outlier``.
        key: of its row.
        given: its label or caption.
        suggested: what seems right, or the key of the image that it copies; empty where nothing is suggested.
        score: the higher the more suspect, within its kind alone.
        reason: one plain sentence.
        row: its number among the rows looked at.
        near: numbers of rows to show beside it.
    """

    kind: str
    key: str
    given: str
    suggested: str
    score: float
    reason: str
    row: int
    near: tuple[int, ...] = ()
