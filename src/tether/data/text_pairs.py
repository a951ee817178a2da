"""Pairs of texts in a batch: a query, what answers it, and hard negatives of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Whole, checked
from tether.core.types import Row

POSITIVES, NEGATIVES = "positive_texts", "negative_texts"
"""Columns of a row whose texts are queries: the positive of each, and the hard negatives of each."""
POSITIVE_TEXT, NEGATIVE_TEXT = "positive_text", "negative_text"
"""Where a batch's extra holds their tokens; the latter is also a row's column of a single hard negative."""


@final
class TextPairs:
    """Gives each text of a batch its positive and, K for each, its hard negatives.

    Rows of the source ``text_pairs`` say which text answers which query. Of any other row two different captions are a
    pair. A row is in a batch once, so that texts of one row, which mean the same, are no negatives of each other.

    Example:
        >>> from tether.core.types import Row
        >>> from tether.data.text_pairs import TextPairs
        >>> dog = Row("1.jpg", None, ("a dog", "a brown dog on sand"), {"negative_text": "a cat"})
        >>> TextPairs(negatives=1).texts([dog], said=["a dog"], draws=[0])
        {'positive_text': ['a brown dog on sand'], 'negative_text': ['a cat']}
    """

    @checked
    def __init__(self, *, negatives: Whole = 0) -> None:
        """Args: negatives: of each query in a batch; of more that a row has, others are drawn at each visit."""
        self.negatives = negatives

    def check(self, row: Row) -> None:
        """Refuse a row that gives no pair.

        Raises:
            InputError: captions that are all the same, or fewer hard negatives than a batch wants.
        """
        if POSITIVES not in row.meta and len({text for text in row.texts if text.strip()}) < 2:
            raise InputError(f"{row.key}: expected two different captions, or a column {POSITIVES!r}")
        for place, query in enumerate(row.texts):
            found = len(self._against(row, place))
            if found < self.negatives:
                raise InputError(f"{row.key}: expected {self.negatives} hard negatives of {query!r:.80}, got {found}")

    def texts(self, rows: Sequence[Row], *, said: Sequence[str], draws: Sequence[int]) -> dict[str, list[str]]:
        """``positive_text`` of each row and, row after row, ``negative_text``.

        Args:
            rows: of one batch, which were checked.
            said: the caption that each has in it.
            draws: 64 random bits of each row.

        Raises:
            InputError: a caption that is none of its row's texts, so that nobody knows what answers it.
        """
        found: dict[str, list[str]] = {POSITIVE_TEXT: [], NEGATIVE_TEXT: []}
        for row, query, draw in zip(rows, said, draws, strict=True):
            drawn = hash_int(str(draw), salt=POSITIVE_TEXT)
            places = [place for place, text in enumerate(row.texts) if text == query]
            if not places:
                raise InputError(f"{row.key}: pairs: expected caption first, first_often or random, got {query!r:.80}")
            place = places[drawn % len(places)]
            if POSITIVES in row.meta:
                positive = self._column(row, POSITIVES)[place]
            else:
                others = [text for text in dict.fromkeys(row.texts) if text.strip() and text != query]
                positive = others[drawn % len(others)]
            found[POSITIVE_TEXT].append(positive)
            wrong = self._against(row, place)
            start = (drawn >> 32) % max(1, len(wrong))
            found[NEGATIVE_TEXT] += [wrong[(start + turn) % len(wrong)] for turn in range(self.negatives)]
        return found if self.negatives else {POSITIVE_TEXT: found[POSITIVE_TEXT]}

    def words_of(self, row: Row) -> Iterator[str]:
        """All texts that a row may give besides its own."""
        if POSITIVES in row.meta:
            yield from self._column(row, POSITIVES)
        for place in range(len(row.texts) if self.negatives else 0):
            yield from self._against(row, place)

    def _against(self, row: Row, place: int) -> Sequence[str]:
        """The hard negatives of one text of a row."""
        if NEGATIVES in row.meta:
            return self._column(row, NEGATIVES)[place]
        single = row.meta.get(NEGATIVE_TEXT)
        return [single] if isinstance(single, str) and single.strip() else []

    @staticmethod
    def _column(row: Row, name: str) -> Sequence:
        value = row.meta[name]
        if not isinstance(value, (list, tuple)) or len(value) != len(row.texts):
            raise InputError(
                f"{row.key}: {name}: expected one entry for each of {len(row.texts)} texts, got {value!r:.80}"
            )
        return value
