"""A step of a recipe: drop images that carry text, or pairs whose caption repeats the text in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, Share, checked
from tether.data.curate.engine.step import IMAGE, Stateless, column_of, images_of, texts_of
from tether.methods.parrot_captions.ocr_overlap import Case, caption_overlap, words_of
from tether.tasks.curate.text_reader import LEAST_LETTERS, LEAST_SCORE, SIDE, RapidReader, Side, TextReader

_REFUSALS = {
    "overlap": "the caption repeats words that stand in the image",
    "text": "text stands in the image",
}


class Parrot(Stateless):
    """Drops pairs that teach a model to read instead of to see.

    What stands in an image is read once for all its captions, or taken from a column that was made before; reading
    takes a tenth of a second for a small image and one for a large one. Pairs without an image, and images that
    cannot be decoded, stay. A reader misses some text: what stays is poorer in it, not free of it.

    Source: arXiv 2312.14232. Its own curation is ``drop: text``, then ``clip_score`` and near-duplicates
    (``data.curate.select_unparroted`` has the whole rule).
    """

    @checked
    def __init__(
        self,
        *,
        drop: Literal["overlap", "text"] = "overlap",
        coverage: Decay = 0.0,
        fuzzy: float | None = None,
        case: Case = "lower",
        words: str | None = None,
        side: Side = SIDE,
        least_score: Share = LEAST_SCORE,
        least_letters: Count = LEAST_LETTERS,
    ) -> None:
        """Take the settings; the reader's weights are loaded at the first image.

        Args:
            drop: ``overlap`` drops pairs whose caption repeats the image's words, ``text`` every image with any.
            coverage: with ``overlap``, the fraction of the caption's words that may stand in the image.
            fuzzy: with ``overlap``, words also count as repeated from this similarity on (``caption_overlap``).
            case: as ``words_of``.
            words: column with the words that were read before, a text or a list of texts, null for none; None reads.
            side: as ``RapidReader``.
            least_score: as ``RapidReader``.
            least_letters: as ``RapidReader``.
        """
        caption_overlap("", ocr=(), fuzzy=fuzzy, case=case)  # refuses wrong settings before the work
        self.drop, self.coverage, self.fuzzy, self.words = drop, coverage, fuzzy, words
        self.case: Case = case
        self.reader: TextReader = RapidReader(side=side, least_score=least_score, least_letters=least_letters)
        self.columns = (IMAGE,) if words is None else (words,)
        self.refusal = _REFUSALS[drop]

    @property
    def settings(self) -> dict[str, Any]:
        """What is dropped, and the reader's settings or the column's name."""
        return {
            "drop": self.drop,
            "coverage": self.coverage,
            "fuzzy": self.fuzzy,
            "case": self.case,
            "words": self.words,
            "reader": self.reader.settings if self.words is None else None,
        }

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs that stay, else 0."""
        texts = texts_of(rows).to_pylist()
        read = self._read(images_of(rows)) if self.words is None else _column_words(column_of(rows, self.words))
        dropped = [self._drops(text or "", lines) for text, lines in zip(texts, read, strict=True)]
        return 1.0 - np.array(dropped, np.float64)

    def _drops(self, text: str, lines: Sequence[str]) -> bool:
        if self.drop == "text":
            return any(words_of(line, case=self.case) for line in lines)
        found = caption_overlap(text, ocr=lines, fuzzy=self.fuzzy, case=self.case)
        return (found.coverage if self.fuzzy is None else found.fuzzy_coverage) > self.coverage

    def _read(self, images: pa.BinaryArray) -> list[Sequence[str]]:
        given = images.to_pylist()
        found: dict[bytes | None, Sequence[str]] = {None: ()}
        for image in given:
            if image not in found:
                try:
                    found[image] = self.reader(image).lines
                except InputError:  # it cannot be decoded
                    found[image] = ()
        return [found[image] for image in given]


def _column_words(column: pa.Array) -> list[Sequence[str]]:
    """The words of each row, from texts or lists of texts."""
    if pa.types.is_null(column.type):
        return [()] * len(column)
    listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    kind = column.type.value_type if listed else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"words: expected a column of texts or of lists of texts, got {column.type}")
    if not listed:
        return [() if text is None else (text,) for text in column.to_pylist()]
    return [tuple(text for text in texts or () if text is not None) for texts in column.to_pylist()]
