"""Flaws planted in a finished image, with the mask of the pixels they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8

from tether.core.ranges import checked
from tether.data.sets.scenes.world import Defect, Dice, Scene

Kind = Literal["scratch", "stain", "hole", "grain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_EXTENTS = {"scratch": (0.25, 0.5), "stain": (0.12, 0.24), "hole": (0.07, 0.13), "grain": (0.15, 0.28)}


@checked
def draw_defect(
    scene: Scene, dice: Dice, *, kinds: Sequence[Kind] = KINDS, on: Literal["anywhere", "thing"] = "anywhere"
) -> Defect:
    """A random flaw.

    Args:
        scene: where it will lie.
        dice: draws.
        kinds: some of ``KINDS``.
        on: ``anywhere``, or ``thing`` for the middle part of one of the things.
    """
    kind = dice.pick(kinds)
    extent = dice.uniform(*_EXTENTS[kind])
    x, y = dice.uniform(0.12, 0.88), dice.uniform(0.12, 0.88)
    if on == "thing":
        thing = dice.pick(scene.things)
        play = thing.units / 64 * 0.2
        x, y = thing.x + dice.uniform(-play, play), thing.y + dice.uniform(-play, play)
    return Defect(kind, x, y, extent, dice.uniform(0, np.pi), dice.below(2**31))


def plant(defects: Sequence[Defect], pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Draw the flaws into ``pixels``; the mask is exactly where a value changed."""
    before = pixels.copy()
    for defect in defects:
        _plant(defect, pixels)
    return (pixels != before).any(axis=2)


def _plant(defect: Defect, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    size = pixels.shape[0]
    reach = defect.extent * 0.7 + 2 / size
    left, top = (max(0, int((centre - reach) * size)) for centre in (defect.x, defect.y))
    right, bottom = (min(size, int((centre + reach) * size) + 1) for centre in (defect.x, defect.y))
    if right <= left or bottom <= top:
        return
    window = pixels[top:bottom, left:right]
    y, x = np.mgrid[top:bottom, left:right].astype(np.float64)
    u, v = (x + 0.5) / size - defect.x, (y + 0.5) / size - defect.y
    rng = np.random.default_rng(defect.seed)
    along = u * np.cos(defect.angle) + v * np.sin(defect.angle)
    across = v * np.cos(defect.angle) - u * np.sin(defect.angle)
    pixel = 1 / size
    if defect.kind == "scratch":
        bend = 0.02 * np.sin(along * rng.uniform(8, 20) + rng.uniform(0, 6))
        width = max(0.011, 0.9 * pixel)
        cover = _soft(width - np.abs(across - bend), pixel) * (np.abs(along) <= defect.extent / 2)
        tone = np.array(250.0 if window.mean() < 150 else 40.0)
    elif defect.kind == "grain":
        cover = 0.9 * ((np.abs(along) <= defect.extent / 2) & (np.abs(across) <= defect.extent / 3))
        tone = rng.integers(0, 256, window.shape).astype(np.float64)
    else:
        angle = np.arctan2(v, u)
        ripple = 1 + sum(rng.uniform(0.05, 0.16) * np.sin(turns * angle + rng.uniform(0, 6)) for turns in (2, 3, 5))
        cover = _soft(defect.extent / 2 * ripple - np.hypot(u, v), pixel)
        if defect.kind == "stain":
            cover, tone = cover * 0.62, np.array((88.0, 62.0, 30.0))
        else:
            tone = np.array((8.0, 8.0, 10.0))
    _blend(window, cover, tone)


def _soft(depth: Float[np.ndarray, "h w"], pixel: float) -> Float[np.ndarray, "h w"]:
    """Cover 0 to 1 from the depth inside an outline, one pixel wide at the edge."""
    return np.clip(depth / pixel + 0.5, 0, 1)


def _blend(window: UInt8[np.ndarray, "h w 3"], cover: np.ndarray, tone: np.ndarray) -> None:
    part = cover[..., None]
    window[:] = (window * (1 - part) + tone * part + 0.5).astype(np.uint8)
