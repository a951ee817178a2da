"""What a row is called this time: which of its captions a batch uses."""

from __future__ import annotations

import re
from typing import Protocol, final

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Share, Whole, checked
from tether.core.types import Row
from tether.data.captions.multi_caption import bounds, guarded, place_of, spoken


class CaptionPick(Protocol):
    """Chooses one of a row's captions."""

    def __call__(self, row: Row, *, draw: int) -> str:
        """One caption that is not empty; ``draw`` is 64 random bits of this seed, epoch and row."""
        ...


@final
class FirstCaption:
    """Always the first caption."""

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        return _spoken(row)[0]


@final
class RandomCaption:
    """Any of the captions, with equal chances."""

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        texts = _spoken(row)
        return texts[draw % len(texts)]


@final
class FirstOften:
    """The first caption with a given chance, otherwise any of the others: a name first, its keywords now and then."""

    @checked
    def __init__(self, *, chance: Share = 0.5) -> None:
        """Args: chance: of the first caption, in [0, 1]; a row with one caption always uses it."""
        self.chance = chance

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        first, *others = _spoken(row)
        if not others or (draw >> 32) * 2.0**-32 < self.chance:
            return first
        return others[(draw & 0xFFFFFFFF) % len(others)]


def _spoken(row: Row) -> tuple[str, ...]:
    return row.texts if all(row.texts) else tuple(text for text in row.texts if text.strip())


@final
class Rewritten:
    """The caption or one of its rewrites, all as likely; the row's first text is the caption (LaCLIP).

    A drawn text of fewer than ``min_pieces`` pieces between single spaces gives way to the caption.

    Source: arXiv 2305.20088, section 4, and the released data set class.
    """

    @checked
    def __init__(self, *, min_pieces: Whole = 2, weights: tuple[NonNegative, ...] | None = None) -> None:
        """Take the settings.

        Args:
            min_pieces: least pieces of a text that may be used (>= 0).
            weights: of the caption and of each rewrite, of any sum; rows must then have as many texts.
        """
        self.min_pieces = min_pieces
        self._bounds = None if weights is None else bounds(weights, where="weights")

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        count = len(row.texts)
        if self._bounds is None:
            choice = draw % count
        elif len(self._bounds) == count:
            choice = place_of(_uniform(draw), self._bounds)
        else:
            raise InputError(f"row {row.key}: expected {len(self._bounds)} texts, one for each weight, got {count}")
        text = guarded(row.texts, choice, min_pieces=self.min_pieces)
        return text if text.strip() else _spoken(row)[0]


@final
class MixedCaption:
    """The text of one of several columns, drawn with given chances at every visit (VeCLIP).

    Source: arXiv 2310.07699, section 3.3.
    """

    @checked
    def __init__(self, *, probs: dict[str, NonNegative], fallback: str = "text") -> None:
        """Take the settings.

        Args:
            probs: chance of each column, of sum 1; ``text`` is the row's first caption.
            fallback: column that speaks where the drawn one is silent; one of them.
        """
        if fallback not in probs:
            raise InputError(f"fallback: expected one of {', '.join(probs) or 'no column'}, got {fallback!r}")
        self.columns = tuple(probs)
        self._fallback = self.columns.index(fallback)
        self._bounds = bounds(list(probs.values()), where="probs", total=1.0)

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        texts = [row.texts[0] if name == TEXT else self._said(row, name) for name in self.columns]
        text = spoken(texts, place_of(_uniform(draw), self._bounds), fallback=self._fallback)
        return text if text.strip() else _spoken(row)[0]

    @staticmethod
    def _said(row: Row, name: str) -> str:
        if name not in row.meta:
            known = ", ".join([TEXT, *row.meta])
            raise InputError(f"row {row.key}: caption: no column {name!r}, the row has {known}")
        return str(row.meta[name] or "")


TEXT = "text"
"""What the row's first caption is called among columns."""


def _uniform(draw: int) -> float:
    return (draw >> 11) * 2.0**-53


_END = re.compile(
    r"(?<=[.!?])(?<!Fig\.)(?<!Figs\.)(?<!Eq\.)(?<!Ref\.)(?<!et al\.)(?<!i\.e\.)(?<!e\.g\.)\s+(?=[^\sa-z])"
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, blanks collapsed: they end at ``.``, ``!`` or ``?`` before anything but a small letter.

    Abbreviations usual in captions (``Fig.``, ``Eq.``, ``e.g.``...) end none.
    """
    return [part for part in _END.split(" ".join(text.split())) if part]


@final
class SomeSentences:
    """Neighbouring sentences of a random caption of the row, at every visit others, as many as fit.

    Captions of papers are several times as long as what a CLIP reads, which otherwise sees their beginning only
    (arXiv 2311.04711).
    """

    @checked
    def __init__(self, *, most_words: Count = 50) -> None:
        """Args: most_words: pieces between blanks (>= 1); of a first sentence that is longer its beginning is taken."""
        self.most_words = most_words

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        texts = [text for text in row.texts if text.strip()]
        found = sentences(texts[draw % len(texts)])
        start = (draw >> 32) % len(found)
        chosen: list[str] = []
        for sentence in found[start:]:
            words = sentence.split()
            if chosen and len(chosen) + len(words) > self.most_words:
                break
            chosen += words
        return " ".join(chosen[: self.most_words])
