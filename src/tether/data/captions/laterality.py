"""Words that must not get lost or change places: sides and negations, as reports use them."""

from __future__ import annotations

import re
from typing import Any, final

from tether.core.types import Row
from tether.data.captions.augment import Augmented, bare, instead

OPPOSITES = {
    "left": "right",
    "right": "left",
    "leftmost": "rightmost",
    "rightmost": "leftmost",
    "left-sided": "right-sided",
    "right-sided": "left-sided",
    "leftward": "rightward",
    "rightward": "leftward",
    "lefthand": "righthand",
    "righthand": "lefthand",
}
"""Words of one side, with that of the other."""
BILATERAL = frozenset({"bilateral", "bilaterally", "unilateral", "both"})
NEGATIONS = frozenset({"no", "not", "without", "neither", "nor", "none", "absent", "never", "negative", "denies"})
# Between letters and digits a side is part of another word; at "-", "/" or "_" it is a word of its own.
_SIDE = re.compile(rf"(?<![^\W_])(?:{'|'.join(sorted(OPPOSITES, key=len, reverse=True))})(?![^\W_])", re.IGNORECASE)
_REACH = 2  # words after a side or a negation that it is said of


def names_side(text: str) -> bool:
    """Whether a text says left or right of something, so that a mirrored image would belie it."""
    return _SIDE.search(text) is not None


def mirrored(text: str) -> str:
    """The text with left and right exchanged, for an image that is mirrored; marks and capitals stay."""
    return _SIDE.sub(_opposite, text)


def _opposite(found: re.Match[str]) -> str:
    word = found.group()
    other = OPPOSITES[word.lower()]
    return other.upper() if word.isupper() else instead(word, other)


def keeps_meaning(before: str, *, after: str) -> bool:
    """Whether sides and negations are the same, in the same order, and said of the same words.

    It compares each such word and the two that follow it, so an ordinary word beside one may not be replaced either:
    too careful rather than too bold.
    """
    return _said(before) == _said(after)


def protected(before: str, *, after: str) -> str:
    """The changed text, or the one before where sides or negations would not be what they were."""
    return after if keeps_meaning(before, after=after) else before


@final
class CarefullyAugmented:
    """Captions disturbed as by ``augmented``, unless that would lose, move or add a side or a negation.

    Plain augmentation drops "no" as a stop word and may exchange "left" and "right" (arXiv 2312.07353 asks for
    neither); such a caption stays as it was.
    """

    def __init__(self, *, augmented: dict[str, Any] | None = None) -> None:
        """Args: augmented: settings of ``augmented``, such as ``{"strength": "weak"}``; None takes its defaults."""
        self.inner = Augmented(**(augmented or {}))

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        return protected(self.inner.inner(row, draw=draw), after=self.inner(row, draw=draw))


def _said(text: str) -> list[tuple[str, ...]]:
    words = [bare(word) for word in text.split()]
    telling = OPPOSITES.keys() | BILATERAL | NEGATIONS
    return [tuple(words[place : place + _REACH + 1]) for place, word in enumerate(words) if word in telling]
