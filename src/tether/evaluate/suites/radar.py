"""A radar plot: one ray for each number, one line for each model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RAYS = 3
SIDE, RADIUS, LABEL = 360, 142, 163
"""Of the drawing in its own units, which are about pixels on a small screen."""
RINGS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Radar:
    """All that a page needs to draw one.

    Attributes:
        rays: (x, y, label x, label y, label) of each.
        rings: points of the scale's polygons.
        lines: (name, points) of each model.
        chance: points of what a model that knows nothing reaches.
    """

    rays: tuple[tuple[float, float, float, float, str], ...]
    rings: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    chance: str


def radar(lines: Sequence[tuple[str, Sequence[float]]], *, chance: Sequence[float]) -> Radar | None:
    """Lay it out, from 0 in the middle to 1; None for fewer than three rays.

    Args:
        lines: name of a model, and its number on each ray, NaN where it has none (drawn at 0).
        chance: on each ray.

    Example:
        >>> from tether.evaluate.suites.radar import radar
        >>> radar([("mine", [0.5, 1.0])], chance=[0.1, 0.1]) is None
        True
        >>> radar([("mine", [1.0, 0.0, 0.0])], chance=[0.1, 0.1, 0.1]).lines[0][1].split()[0]
        '180.0,38.0'
    """
    count = len(chance)
    if count < LEAST_RAYS:
        return None
    turn = [2 * math.pi * number / count for number in range(count)]

    def at(angle: float, far: float) -> tuple[float, float]:
        return round(SIDE / 2 + far * math.sin(angle), 1), round(SIDE / 2 - far * math.cos(angle), 1)

    def points(values: Sequence[float]) -> str:
        shares = [min(1.0, max(0.0, 0.0 if math.isnan(value) else value)) for value in values]
        spots = [at(angle, RADIUS * share) for angle, share in zip(turn, shares, strict=True)]
        return " ".join(f"{x},{y}" for x, y in spots)

    return Radar(
        rays=tuple((*at(angle, RADIUS), *at(angle, LABEL), str(number)) for number, angle in enumerate(turn, 1)),
        rings=tuple(points([share] * count) for share in RINGS),
        lines=tuple((name, points(values)) for name, values in lines),
        chance=points(chance),
    )
