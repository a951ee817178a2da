"""Outlines of the shapes as formulas on the unit disc; each fits into radius 1 however it is turned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Grid = Float[np.ndarray, "h w"]
Inside = Bool[np.ndarray, "h w"]


def _polygon(corners: list[tuple[float, float]]) -> Callable[[Grid, Grid], Inside]:
    """Even-odd rule over the edges of a closed polygon."""

    def inside(x: Grid, y: Grid) -> Inside:
        found = np.zeros(x.shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                found ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return found

    return inside


def _regular(count: int, *, turn: float, radius: float = 1.0) -> list[tuple[float, float]]:
    angles = turn + 2 * np.pi * np.arange(count) / count
    return [(radius * float(np.cos(angle)), radius * float(np.sin(angle))) for angle in angles]


def _star() -> list[tuple[float, float]]:
    outer, inner = _regular(5, turn=-np.pi / 2), _regular(5, turn=-np.pi / 2 + np.pi / 5, radius=0.44)
    return [corner for pair in zip(outer, inner, strict=True) for corner in pair]


def _heart(x: Grid, y: Grid) -> Inside:
    u, v = x * 1.32, 0.18 - y * 1.28
    return (u * u + v * v - 1) ** 3 - u * u * v * v * v <= 0


OUTLINES: dict[str, Callable[[Grid, Grid], Inside]] = {
    "circle": lambda x, y: x * x + y * y <= 0.92,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.70,
    "triangle": _polygon(_regular(3, turn=-np.pi / 2)),
    "diamond": lambda x, y: abs(x) / 0.68 + abs(y) <= 1,
    "star": _polygon(_star()),
    "heart": _heart,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.30) & (np.maximum(abs(x), abs(y)) <= 0.92),
    "ring": lambda x, y: (x * x + y * y <= 0.95) & (x * x + y * y >= 0.24),
    "hexagon": _polygon(_regular(6, turn=0.0)),
    "moon": lambda x, y: (x * x + y * y <= 0.98) & ((x - 0.48) ** 2 + (y + 0.12) ** 2 >= 0.56),
}


def missing(x: Grid, y: Grid, *, damage: int, width: float) -> Inside:
    """What a broken thing lacks: a bite at the rim and a jagged crack across, ``width`` wide on the unit disc."""
    angle = (0.6, 2.3, 3.9, 5.4)[damage]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bite = (along - 0.88) ** 2 + across**2 <= 0.20
    zigzag = 0.16 * (np.abs(((along * 2.6) % 2) - 1) * 2 - 1)
    return bite | (np.abs(across - zigzag) <= width / 2)
