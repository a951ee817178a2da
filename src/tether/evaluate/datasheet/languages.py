"""How many captions are in which language, before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tether.core.errors import MissingExtraError
from tether.data.curate.steps.language import LanguageDetector
from tether.evaluate.datasheet.sample import Captions

_SHOWN = 12
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Spoken:
    """Fraction of the captions that are in one language.

    Attributes:
        code: the language's code, ``und`` for captions without letters, or ``others``.
        before: fraction of the pool, 0 to 1.
        after: fraction of what was kept, 0 to 1.
    """

    code: str
    before: float
    after: float


def languages(before: Captions, after: Captions) -> list[Spoken] | None:
    """The most frequent languages of the pool, or None where the detector is not installed."""
    detector = LanguageDetector()
    try:
        sides = [Counter(detector.detect_many(side.texts).codes.to_pylist()) for side in (before, after)]
    except MissingExtraError:
        return None
    order = sorted(set(sides[0]) | set(sides[1]), key=lambda code: (-sides[0][code], -sides[1][code], code))
    totals = [max(1, side.total()) for side in sides]
    found = [Spoken(code, *(side[code] / total for side, total in zip(sides, totals, strict=True)))
             for code in order[:_SHOWN]]  # fmt: skip
    rest = [sum(side[code] for code in order[_SHOWN:]) / total for side, total in zip(sides, totals, strict=True)]
    return [*found, Spoken(OTHERS, *rest)] if any(rest) else found
