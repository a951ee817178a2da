"""What a person should look at in a source, and what was decided about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tether.core.errors import InputError
from tether.core.printable import is_line, quoted

SuspectKind = Literal["label", "caption", "copy", "outlier"]
KINDS: tuple[SuspectKind, ...] = get_args(SuspectKind)
Choice = Literal["keep", "relabel", "drop"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


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

    kind: SuspectKind
    key: str
    given: str
    suggested: str
    score: float
    reason: str
    row: int
    near: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """About one row, or one caption of it.

    Attributes:
        key: of the row.
        kind: what it is about: ``label``, ``caption``, ``copy`` or ``outlier``.
        choice: ``keep`` as it is, ``relabel``, or ``drop`` (of a caption the caption alone).
        given: the label or caption that was there; it tells the captions of a row apart.
        new: the label or caption in its place, of ``relabel``.
    """

    key: str
    kind: str
    choice: Choice
    given: str = ""
    new: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be applied."""
        if not self.key:
            raise InputError("key: expected the key of a row, got nothing")
        if self.kind not in KINDS:
            raise InputError(f"kind: expected {', '.join(KINDS)}, got {quoted(self.kind)}")
        if self.choice not in CHOICES:
            raise InputError(f"decision: expected {', '.join(CHOICES)}, got {quoted(self.choice)}")
        if self.choice == "relabel" and not is_line(self.new):
            raise InputError(f"new: relabel needs one line of text, got {quoted(self.new)}")
        if self.choice == "relabel" and self.kind not in ("label", "caption"):
            raise InputError(f"decision: {self.kind} can be kept or dropped, not relabelled")
