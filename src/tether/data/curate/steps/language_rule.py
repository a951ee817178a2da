"""Keep captions in the languages that are wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import Share, checked
from tether.data.curate.engine.stateless import Stateless, column_of, texts_of
from tether.data.curate.steps.language import UNKNOWN, LanguageDetector, known_languages


class LanguageRule(Stateless):
    """Keeps pairs whose caption is in one of the wanted languages.

    The language is detected (``LanguageDetector``), or read from a column of the pool. Names, numbers and captions of
    three words are often taken for another language, so a ``minimum`` above 0 drops much of a short-captioned pool:
    look at a sample first.
    """

    @checked
    def __init__(
        self,
        *,
        languages: str | Sequence[str],
        minimum: Share = 0.0,
        unknown: Literal["keep", "drop"] = "drop",
        column: str | None = None,
    ) -> None:
        """Say what is wanted.

        Args:
            languages: codes as the detector gives them (``en``, ``zh``, ``ceb``).
            minimum: least probability of the detector, 0 to 1; below it the language counts as unknown.
            unknown: what happens to captions of unknown language: no letter in them, unsure, or null in ``column``.
            column: name of a column that holds the language (``en``, ``en-GB``, ``EN_us``); nothing is detected then.
        """
        wanted = [languages] if isinstance(languages, str) else list(languages)
        if not wanted:
            raise InputError("languages: expected at least one code, such as en")
        for code in wanted:
            if not re.fullmatch("[a-z]{2,3}", code) or code == UNKNOWN:
                raise InputError(f"languages: expected codes of two or three small letters, such as en, got {code!r}")
        if column is not None and minimum:
            raise InputError("minimum: belongs to detection; a column of languages has no scores")
        self.languages, self.minimum, self.unknown, self.column = sorted(set(wanted)), minimum, unknown, column
        self.columns = () if column is None else (column,)
        self.refusal = f"the caption is not in {' or '.join(self.languages)}"
        self._detector = LanguageDetector()

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs in a wanted language, else 0.

        Raises:
            InputError: a language that the detector does not know, or a column that does not hold texts.
        """
        codes = self._codes(rows)
        wanted = np.asarray(pc.is_in(codes, pa.array(self.languages)))
        if self.unknown == "keep":
            wanted |= np.asarray(pc.equal(codes, UNKNOWN))
        return wanted.astype(np.float64)

    def _codes(self, rows: pa.RecordBatch) -> pa.StringArray:
        if self.column is not None:
            given = column_of(rows, self.column)
            if pa.types.is_dictionary(given.type):
                given = given.cast(given.type.value_type)
            if pa.types.is_null(given.type):
                given = given.cast(pa.string())
            if not (pa.types.is_string(given.type) or pa.types.is_large_string(given.type)):
                raise InputError(f"column {self.column!r}: expected texts such as en, got {given.type}")
            first = pc.utf8_lower(pc.replace_substring_regex(given.cast(pa.string()), r"[-_].*|^\s+|\s+$", ""))
            return pc.if_else(pc.equal(first, ""), None, first).fill_null(UNKNOWN)
        texts = texts_of(rows)
        for code in self.languages if len(texts) else ():
            if code not in known_languages():
                raise InputError(f"languages: the detector does not know {code!r}; {closest(code, known_languages())}")
        found = self._detector.detect_many(texts)
        if not self.minimum:
            return found.codes
        return pc.if_else(pa.array(found.scores >= self.minimum), found.codes, UNKNOWN)
