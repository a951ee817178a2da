"""A part of a caption that is longer than what a model reads."""

from __future__ import annotations

import re
from typing import final

from tether.core.ranges import Count, checked
from tether.core.types import Row

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
