"""Numbers out of captions: years, prices and lot numbers move a CLIP score, and rarely say what an image shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.curate.engine.step import Gives, texts_of
from tether.data.curate.steps.score_selection import checked_scores, top_rows

MaskMode = Literal["number", "token"]
NUMBER = r"\d+(?:[.,:/x-]\d+)*%?"
"""Digits, then any number of one of ``. , : / x -`` followed by digits, then an optional per cent sign.

``\\d`` is a digit of any script. It is a definition of ours: the paper gives no pattern in what could be read of it.
"""
FRACTION = 0.4
"""Fraction of the pairs that is kept (arXiv 2309.13770, abstract)."""


@checked
def mask_numbers(text: str, *, mode: MaskMode = "number", pattern: str | None = None) -> str:
    """The text without its numbers, and single blanks between what is left.

    Letters that touch digits stay (``iPhone 11`` becomes ``iPhone``, ``4K`` becomes ``K``), and so do number words and
    stubs such as ``no.`` or ``$``. Source: arXiv 2309.13770; the exact rule is ours.

    Args:
        text: one caption.
        mode: ``number`` takes out each match of the pattern; ``token`` takes out every word between blanks that holds
            one (``mp3`` goes whole).
        pattern: a regular expression of what counts as a number; None for ``NUMBER``. Where years or model names carry
            meaning, give one that spares them.
    """
    if not isinstance(text, str):
        raise TypeError(f"caption: expected str, got {type(text).__name__}")
    found = number_pattern(pattern)
    if mode == "number":
        return " ".join(found.sub(" ", text).split())
    return " ".join(word for word in text.split() if not found.search(word))


def number_pattern(pattern: str | None) -> re.Pattern[str]:
    """The compiled pattern, ``NUMBER`` for None; one that also matches an empty text is refused."""
    try:
        found = re.compile(NUMBER if pattern is None else pattern)
    except (re.error, TypeError) as error:
        raise InputError(f"pattern: not a regular expression: {pattern!r}: {error}") from error
    if found.match(""):
        raise InputError(f"pattern: {pattern!r} also matches where there is no character, and would part every letter")
    return found


def number_ratio(text: str) -> float:
    """Digits of any script as a fraction of the characters that are not blank; 0 where there are none."""
    if not isinstance(text, str):
        raise TypeError(f"caption: expected str, got {type(text).__name__}")
    solid = "".join(text.split())
    return sum(map(str.isdecimal, solid)) / len(solid) if solid else 0.0


@dataclass(frozen=True, slots=True)
class NumberEffect:
    """What the numbers in captions do to a score filter.

    Attributes:
        ratio: (n,) ``number_ratio`` of each caption.
        delta: (n,) score of the caption as it is, minus its score without numbers.
        spearman: rank correlation of the two, -1 to 1; NaN where one of them is the same for all pairs.
        changed: fraction of what the plain filter keeps that the masked one does not, 0 to 1.
    """

    ratio: Float[np.ndarray, " n"]
    delta: Float[np.ndarray, " n"]
    spearman: float
    changed: float


def number_effect(
    texts: Sequence[str],
    *,
    raw: Float[np.ndarray, " n"],
    masked: Float[np.ndarray, " n"],
    fraction: float = FRACTION,
) -> NumberEffect:
    """How far the scores of captions with and without their numbers lie apart, and how many decisions change.

    Args:
        texts: n captions as they are.
        raw: their scores.
        masked: the scores of their masked forms.
        fraction: of the pairs that each filter keeps, in (0, 1].
    """
    raw, masked = checked_scores(raw, name="raw"), checked_scores(masked, name="masked")
    if not len(texts) == len(raw) == len(masked):
        raise InputError(
            f"expected one score for each text, got {len(texts)} texts, {len(raw)} raw, {len(masked)} masked"
        )
    ratio = np.array([number_ratio(text) for text in texts], np.float64)
    delta = raw - masked
    plain = top_rows(raw, fraction=fraction)
    lost = np.setdiff1d(plain, top_rows(masked, fraction=fraction), assume_unique=True)
    return NumberEffect(ratio, delta, _spearman(ratio, delta), len(lost) / len(plain) if len(plain) else 0.0)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    return float(spearmanr(x, y).statistic)


class NumberMask:
    """Takes the numbers out of captions, for training and for every step that follows.

    To let numbers out of a decision only, and train on the captions as they are, give the step ``clip_score`` the text
    transform ``mask_numbers`` instead. A caption that is nothing but numbers becomes an empty text.
    """

    columns: tuple[str, ...] = ()
    gives: Gives = "one"

    @checked
    def __init__(self, *, mode: MaskMode = "number", pattern: str | None = None) -> None:
        """Args: as ``mask_numbers``."""
        mask_numbers("", mode=mode, pattern=pattern)  # refuses wrong settings before the work
        self.mode, self.pattern = mode, pattern

    @property
    def settings(self) -> dict[str, Any]:
        """Mode and pattern."""
        return {"mode": self.mode, "pattern": NUMBER if self.pattern is None else self.pattern}

    def map(self, rows: pa.RecordBatch) -> pa.ListArray:
        """(n,) lists of one text each."""
        texts = texts_of(rows).to_pylist()
        masked = [None if text is None else mask_numbers(text, mode=self.mode, pattern=self.pattern) for text in texts]
        return pa.array([[text] for text in masked], pa.list_(pa.string()))
