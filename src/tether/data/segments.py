"""Long captions in pieces: a caption that grows detail by detail, and one that grows by a false detail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tether.core.errors import InputError
from tether.core.ranges import checked

CONJUNCTIONS = ("and", "but", "or", "while", "whereas", "with", "which", "whose", "where", "who")
"""Words that begin a clause of their own."""
LEAST_WORDS = 2
"""A shorter piece belongs to the one before it."""
_BOUNDARY = re.compile(rf"(?<=[.;:!?,])\s+|\s+(?=(?:{'|'.join(CONJUNCTIONS)})\b)", re.IGNORECASE)

Words = Literal["shuffled", "kept"]


def split_caption(text: str) -> tuple[str, ...]:
    """The pieces of a caption: sentences, and clauses at commas, colons and conjunctions.

    Joined by spaces they are the caption again. The release (arXiv 2509.03897) finds them with an NLTK chunk grammar.

    Args:
        text: any caption; a blank one has no pieces.
    """
    pieces: list[str] = []
    for piece in _BOUNDARY.split(" ".join(text.split())):
        if pieces and (len(piece.split()) < LEAST_WORDS or len(pieces[-1].split()) < LEAST_WORDS):
            pieces[-1] = f"{pieces[-1]} {piece}"
        elif piece:
            pieces.append(piece)
    return tuple(pieces)


def growing(segments: Sequence[str]) -> tuple[str, ...]:
    """The first piece, the first two, and so on to the whole caption."""
    return tuple(" ".join(segments[: count + 1]) for count in range(len(segments)))


@dataclass(frozen=True, slots=True)
class DetailTriplet:
    """A caption cut short, the same with one more detail of its own, and with one of another image.

    Attributes:
        base: the first pieces.
        detail: one piece more, true.
        negative: the base and a piece of another caption.
    """

    base: str
    detail: str
    negative: str


@checked
def draw_triplet(
    segments: Sequence[Sequence[str]], row: int, *, rng: np.random.Generator, words: Words = "kept"
) -> DetailTriplet | None:
    """A random triplet of one caption of a batch (arXiv 2509.03897, section 3).

    The false piece is one that the own caption does not hold anywhere, so that it is not true by repetition. Where a
    caption has none, the next one of the batch is looked at.

    Args:
        segments: pieces of every caption of the batch.
        row: whose triplet.
        rng: of the cut, the other caption, its piece, and the order of its words.
        words: of the false piece: ``kept`` in order, or ``shuffled``, as the release does for nine tenths of its data.

    Returns:
        None for a caption of fewer than two pieces, and where no other caption holds anything else.
    """
    if not 0 <= row < len(segments):
        raise InputError(f"row: expected 0 to {len(segments) - 1}, got {row}")
    own = segments[row]
    if len(own) < 2:
        return None
    count = 1 + int(rng.integers(len(own) - 1))
    base = " ".join(own[:count])
    start = int(rng.integers(len(segments)))
    for place in range(len(segments)):
        other = segments[(start + place) % len(segments)]
        foreign = [piece for piece in other if piece not in own]
        if foreign:
            piece = foreign[int(rng.integers(len(foreign)))]
            if words == "shuffled":
                piece = " ".join(rng.permutation(piece.split()).tolist())
            return DetailTriplet(base, f"{base} {own[count]}", f"{base} {piece}")
    return None
