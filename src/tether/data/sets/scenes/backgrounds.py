"""The places a scene can lie in, painted once for each size and drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

Plane = Float[np.ndarray, "size size"]
Paint = Float[np.ndarray, "size size 3"]


@dataclass(frozen=True, slots=True)
class _Ground:
    """What painters work with: coordinates in [0, 1), smooth noise coarse and fine, noise for each pixel."""

    x: Plane
    y: Plane
    soft: Plane
    fine: Plane
    grain: Plane
    rng: np.random.Generator


@lru_cache(maxsize=256)
def background(name: str, variant: int, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Drawing ``variant`` of a background; read-only."""
    rng = np.random.default_rng([*name.encode(), variant])
    y, x = np.mgrid[:size, :size] / size
    grain = rng.random((size, size)) - 0.5
    ground = _Ground(x, y, _clouds(rng, size, cells=5), _clouds(rng, size, cells=22), grain, rng)
    done = np.clip(_PAINTERS[name](ground), 0, 255).round().astype(np.uint8)
    done.flags.writeable = False
    return done


def _clouds(rng: np.random.Generator, size: int, *, cells: int) -> Plane:
    """Smooth noise in about [-0.5, 0.5] with ``cells`` bumps along a side."""
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) - 0.5


def _mix(first: tuple[int, int, int], second: tuple[int, int, int], share: Plane) -> Paint:
    part = np.clip(share, 0, 1)[..., None]
    return np.array(first) * (1 - part) + np.array(second) * part


def _paper(on: _Ground) -> Paint:
    return _mix((246, 243, 232), (232, 227, 212), 0.5 + on.soft * 0.7 + on.grain * 0.2)


def _sky(on: _Ground) -> Paint:
    cloud = np.clip((on.soft + 0.35 * on.fine - 0.10) * 4.5, 0, 0.75)[..., None]
    return _mix((96, 166, 236), (176, 214, 246), on.y) * (1 - cloud) + 248 * cloud


def _grass(on: _Ground) -> Paint:
    return _mix((104, 178, 72), (70, 140, 52), 0.5 + 0.7 * on.fine + 0.5 * on.grain + 0.3 * on.soft)


def _sand(on: _Ground) -> Paint:
    ripple = 0.25 * np.sin(44 * (on.y + 0.06 * on.soft + 0.03 * np.sin(9 * on.x)))
    return _mix((236, 212, 158), (212, 182, 124), 0.45 + ripple + 0.3 * on.grain)


def _wood(on: _Ground) -> Paint:
    rings = 0.5 + 0.35 * np.sin(52 * (on.y + 0.10 * on.soft) + 3 * on.fine)
    plank = (np.floor(on.y * 4) + on.rng.integers(4)) % 2 * 0.18
    seam = ((on.y * 4 % 1) < 0.05)[..., None]
    return _mix((206, 160, 104), (168, 118, 68), rings * 0.7 + plank + 0.15 * on.grain) * (1 - 0.35 * seam)


def _water(on: _Ground) -> Paint:
    wave = np.sin(34 * on.y + 5 * np.sin(7 * on.x + 6 * on.soft)) + 0.8 * on.fine
    return _mix((34, 104, 176), (108, 178, 224), 0.38 + 0.30 * wave)


def _night(on: _Ground) -> Paint:
    sky = _mix((14, 16, 44), (44, 40, 88), on.y + 0.4 * on.soft)
    stars = on.rng.random((26, 2))
    glow = on.rng.uniform(170, 255, (26, 1))
    rows, columns = (stars * sky.shape[0]).astype(int).T
    sky[rows, columns] = glow
    return sky


def _snow(on: _Ground) -> Paint:
    return _mix((252, 253, 255), (206, 220, 238), 0.35 + 1.1 * on.soft + 0.15 * on.fine)


def _stone(on: _Ground) -> Paint:
    return _mix((176, 176, 172), (122, 124, 128), 0.45 + 0.6 * on.fine + 0.5 * on.grain + 0.3 * on.soft)


def _brick(on: _Ground) -> Paint:
    row = np.floor(on.y * 8)
    column = on.x * 4 + 0.5 * (row % 2)
    mortar = ((on.y * 8 % 1) < 0.14) | ((column % 1) < 0.07)
    hue = np.sin(12.9 * row + 78.2 * np.floor(column) + on.rng.uniform(0, 6)) * 0.5 + 0.5
    wall = _mix((186, 96, 72), (150, 68, 52), hue + 0.3 * on.grain)
    return np.where(mortar[..., None], np.array((208, 200, 188)), wall)


_PAINTERS: dict[str, Callable[[_Ground], Paint]] = {
    "paper": _paper,
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "wood": _wood,
    "water": _water,
    "night": _night,
    "snow": _snow,
    "stone": _stone,
    "brick": _brick,
}
