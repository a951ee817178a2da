"""Words laid out as a cloud, the frequent ones large."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 100.0, 46.0
_SMALL, _LARGE = 2.2, 8.0
_NARROW, _WIDE = 0.6, 1.05  # width of a character as a fraction of its height
_GAP = 0.5  # between neighbours, as a fraction of the height
_TURN, _OUT = 0.35, 0.08
_FILLED = 0.5  # of the box, by all words together


@dataclass(frozen=True, slots=True)
class Placed:
    """A word, its middle and its height, in a box of ``WIDTH`` by ``HEIGHT``."""

    word: str
    x: float
    y: float
    size: float


def cloud(counts: Sequence[tuple[str, int]]) -> list[Placed]:
    """Place words from the most frequent on, each where it first fits along a spiral; what does not fit is left out.

    Args:
        counts: words and how often each stands there, most frequent first.
    """
    placed: list[Placed] = []
    boxes: list[tuple[float, float, float, float]] = []
    most = max((count for _, count in counts), default=1)
    sizes = [_SMALL + (_LARGE - _SMALL) * math.sqrt(count / most) for _, count in counts]
    area = sum(size * size * (_breadth(word) + _GAP) for (word, _), size in zip(counts, sizes, strict=True))
    shrink = min(1.0, math.sqrt(_FILLED * WIDTH * HEIGHT / area)) if area else 1.0
    for (word, _), size in zip(counts, sizes, strict=True):
        size *= shrink
        width = size * (_breadth(word) + _GAP)
        for step in range(900):
            angle, radius = step * _TURN, step * _OUT
            x, y = WIDTH / 2 + radius * math.cos(angle), HEIGHT / 2 + 0.45 * radius * math.sin(angle)
            box = (x - width / 2, y - 0.6 * size, x + width / 2, y + 0.6 * size)
            if box[0] < 0 or box[1] < 0 or box[2] > WIDTH or box[3] > HEIGHT:
                continue
            if all(box[2] <= b[0] or box[0] >= b[2] or box[3] <= b[1] or box[1] >= b[3] for b in boxes):
                boxes.append(box)
                placed.append(Placed(word, round(x, 2), round(y, 2), round(size, 2)))
                break
    return placed


def _breadth(word: str) -> float:
    """Width of a word of height 1, about."""
    return sum(_WIDE if unicodedata.east_asian_width(sign) in "WF" else _NARROW for sign in word)
