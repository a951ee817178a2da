"""Things by the formulas of their outlines, rasterised once for each look and size and then only blended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16

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


_SAMPLES = 4  # per pixel and axis, for smooth edges
_TILTS = (0.0, -math.radians(14), math.radians(14))


@dataclass(frozen=True, slots=True)
class Sprite:
    """The coverage of one thing.

    Attributes:
        alpha: (d, d, 1) 0 to 256, how much of each pixel it covers.
        rest: (d, d, 1), 256 - ``alpha``.
        touched: (d, d), where ``alpha`` is not 0.
        ink: (d, d) 0 inside, 2 along the outline.
        box: x0, y0, x1, y1 of the touched pixels, the last two exclusive.
    """

    alpha: UInt16[np.ndarray, "d d 1"]
    rest: UInt16[np.ndarray, "d d 1"]
    touched: Bool[np.ndarray, "d d"]
    ink: UInt8[np.ndarray, "d d"]
    box: tuple[int, int, int, int]


@lru_cache(maxsize=8192)
def sprite(shape: str, diameter: int, tilt: int, damage: int) -> Sprite:
    """The sprite of a shape ``diameter`` pixels wide; ``damage`` -1 for a whole one."""
    inside = _inside(shape, diameter, tilt, damage)
    alpha = _shrink(inside, 256)
    # The outline is what a slightly smaller copy leaves uncovered; damage shows the same edge.
    count = diameter * _SAMPLES
    width = max(1, round(_SAMPLES * max(1.0, diameter / 22) * 0.9))
    core = inside.copy()
    for axis in (0, 1):
        for step in (-width, width):
            shifted = np.roll(inside, step, axis=axis)
            edge = [slice(None), slice(None)]
            edge[axis] = slice(0, width) if step > 0 else slice(count - width, count)
            shifted[tuple(edge)] = False
            core &= shifted
    outline = (_shrink(core, 256) < 128).astype(np.uint8) * 2
    touched = alpha > 0
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    alpha = alpha[:, :, None].astype(np.uint16)
    return Sprite(alpha, 256 - alpha, touched, outline, box)


def _inside(shape: str, diameter: int, tilt: int, damage: int) -> Bool[np.ndarray, "s s"]:
    count = diameter * _SAMPLES
    axis = (np.arange(count) + 0.5) * 2 / count - 1
    x, y = np.meshgrid(axis, axis)
    cosine, sine = math.cos(_TILTS[tilt]), math.sin(_TILTS[tilt])
    u, v = x * cosine + y * sine, y * cosine - x * sine
    inside = OUTLINES[shape](u, v) & (x * x + y * y <= 1)
    if damage < 0:
        return inside
    # On a small thing the crack is at least a pixel and a half wide, or nobody would see it.
    return inside & ~missing(u, v, damage=damage, width=max(0.2, 3.0 / diameter))


def _shrink(inside: Bool[np.ndarray, "s s"], top: int) -> UInt16[np.ndarray, "d d"]:
    """Share of samples inside each pixel, scaled to 0..top."""
    side = inside.shape[0] // _SAMPLES
    counts = inside.reshape(side, _SAMPLES, side, _SAMPLES).sum(axis=(1, 3))
    return (counts * top // _SAMPLES**2).astype(np.uint16)


@lru_cache(maxsize=1024)
def pattern(texture: str, diameter: int) -> UInt8[np.ndarray, "d d"]:
    """1 where the second tone shows, 0 elsewhere; the period grows with the thing."""
    period = max(4, round(diameter / 4.5))
    half = period / 2
    y, x = np.mgrid[:diameter, :diameter]
    if texture == "striped":
        second = (x + y) % period < half
    elif texture == "checkered":
        second = (x // math.ceil(half) + y // math.ceil(half)) % 2 == 0
    elif texture == "dotted":
        centre = (period - 1) / 2
        second = (x % period - centre) ** 2 + (y % period - centre) ** 2 <= (period * 0.31) ** 2
    else:
        second = np.zeros((diameter, diameter), dtype=bool)
    return second.astype(np.uint8)


@lru_cache(maxsize=4096)
def inks(shape: str, diameter: int, tilt: int, damage: int, texture: str) -> UInt8[np.ndarray, "d d"]:
    """For each pixel of a sprite the tone it has: 0 fill, 1 second tone, 2 outline."""
    return np.maximum(sprite(shape, diameter, tilt, damage).ink, pattern(texture, diameter))


@lru_cache(maxsize=4096)
def tones(colour: tuple[int, int, int], shade: int) -> UInt16[np.ndarray, "3 3"]:
    """Fill, second tone and outline of a colour; ``shade`` is added to all channels."""
    fill = np.clip(np.array(colour, dtype=np.float64) + shade, 0, 255)
    light = float(fill @ (0.299, 0.587, 0.114))
    second = fill * 0.38 + 255 * 0.62 if light < 150 else fill * 0.52
    outline = fill * 0.45 if light > 60 else fill * 0.4 + 255 * 0.3
    return np.stack([fill, second, outline]).round().astype(np.uint16)
