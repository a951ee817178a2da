"""How well texts were read: words that are right, and characters that are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tether.core.edit_distance import edit_distance
from tether.core.errors import InputError
from tether.evaluate.bootstrap import interval
from tether.evaluate.groups import Share, wilson


@dataclass(frozen=True, slots=True)
class ReadingScores:
    """How well texts were read.

    Attributes:
        right: texts read without a mistake, with Wilson's interval of 95 %.
        wrong: characters to change over those that stand there; above 1 where more was read than stands there.
        wrong_interval: of 95 %, by a bootstrap over images.
    """

    right: Share
    wrong: float
    wrong_interval: tuple[float, float]

    def lines(self) -> list[str]:
        """Both in a sentence."""
        low, high = self.wrong_interval
        return [
            f"{self.right.rate:.1%} of {self.right.n:,} texts read right ({self.right.low:.1%} to "
            f"{self.right.high:.1%}); {self.wrong:.1%} of their characters wrong ({low:.1%} to {high:.1%})"
        ]


def reading_scores(read: Sequence[str], true: Sequence[str]) -> ReadingScores:
    """Compare what was read with what stands there, letter by letter; capitals and blanks count.

    Raises:
        InputError: none, texts of different numbers, or nothing that stands anywhere.

    Example:
        >>> from tether.evaluate.reading import reading_scores
        >>> found = reading_scores(["exit", "pusb"], ["exit", "push"])
        >>> found.right.rate, found.wrong
        (0.5, 0.125)
    """
    if len(read) != len(true) or not true or not any(true):
        raise InputError(f"true: expected a text for each of {len(read)}, and letters in them, got {len(true)}")
    changes = np.array([[float(edit_distance(one, other))] for one, other in zip(read, true, strict=True)])
    letters = np.array([[float(len(one))] for one in true])
    ends = interval(changes, counts=letters)[0]
    right = wilson(int((changes == 0).sum()), n=len(true))
    return ReadingScores(right, float(changes.sum() / letters.sum()), (float(ends[0]), float(ends[1])))
