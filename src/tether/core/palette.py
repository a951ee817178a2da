"""Colours for classes that people with any kind of colour vision can tell apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

from tether.core.errors import InputError

MOST_COLOURS = 255
Palette = UInt8[np.ndarray, "k 3"]

_FIRST = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)  # Okabe and Ito, Color Universal Design, 2008
_LEVELS = 9  # of each channel among the colours that may follow
_LIGHTNESS = (0.48, 0.9)  # of OKLab: neither black nor white
_CHROMA = 0.2  # of OKLab, at most: colours that glare cover what lies under them
_VISIONS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)  # full, without red and without green cones: Machado et al. 2009, severity 1, on linear RGB
_WEIGHTS = np.array([1.0, 2.5, 2.5])
_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


@cache
def default_palette(count: int) -> Palette:
    """Different colours; a longer palette begins with the shorter one.

    The first seven are Okabe and Ito's. Each further one is the colour that is farthest from all before it. How far two
    colours are apart is the least of three distances in OKLab: as seen with full colour vision, without red cones and
    without green cones. The last two count 2.5 times, as such eyes see all colours nearer to each other. Read-only.

    Raises:
        InputError: more than ``MOST_COLOURS``.

    Example:
        >>> from tether.core.palette import default_palette
        >>> default_palette(9)[:2].tolist()
        [[230, 159, 0], [86, 180, 233]]
    """
    if count > MOST_COLOURS:
        raise InputError(f"palette: {count} classes; a palette image holds at most {MOST_COLOURS}")
    levels = np.linspace(0, 255, _LEVELS).round()
    free = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = _seen(free)
    lightness, chroma = seen[0, :, 0], np.hypot(seen[0, :, 1], seen[0, :, 2])
    kept = (lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1]) & (chroma < _CHROMA)
    free, seen = free[kept], seen[:, kept]
    chosen = [np.array(colour, dtype=float) for colour in _FIRST[:count]]
    nearest = np.full(len(free), np.inf)
    for colour in chosen:
        nearest = np.minimum(nearest, _distance(seen, _seen(colour[None])))
    while len(chosen) < count:
        best = int(nearest.argmax())
        chosen.append(free[best])
        nearest = np.minimum(nearest, _distance(seen, seen[:, best : best + 1]))
    found = np.array(chosen).reshape(-1, 3).astype(np.uint8)
    found.flags.writeable = False
    return found


def _seen(colours: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3 n 3"]:
    """OKLab of sRGB colours for each kind of colour vision."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.stack([np.cbrt(np.clip(linear @ eye.T, 0, 1) @ _TO_LMS.T) @ _TO_LAB.T for eye in _VISIONS])


def _distance(seen: Float[np.ndarray, "3 n 3"], other: Float[np.ndarray, "3 1 3"]) -> Float[np.ndarray, " n"]:
    return (np.linalg.norm(seen - other, axis=2) * _WEIGHTS[:, None]).min(axis=0)


def palette_of(given: str | Sequence[str] | Sequence[Sequence[int]] | Palette, *, count: int) -> Palette:
    """A caller's own palette.

    Args:
        given: colours as ``#rrggbb``, in a list or with commas between them, or (k, 3) numbers from 0 to 255.
        count: classes that need one; more colours are left out.

    Raises:
        InputError: what is no colour, the same colour twice, or fewer colours than classes.
    """
    listed = given.split(",") if isinstance(given, str) else list(given)
    found = [_colour(one, number) for number, one in enumerate(listed, start=1)][:count]
    if len(found) < count:
        raise InputError(f"palette: {len(found)} colours for {count} classes; give {count}, or none for the default")
    if twice := [one for one in found if found.count(one) > 1]:
        numbers = [number for number, one in enumerate(found, start=1) if one == twice[0]]
        raise InputError(f"palette: colours {numbers[0]} and {numbers[1]} are the same, {twice[0]}")
    return np.array(found, dtype=np.uint8).reshape(-1, 3)


def _colour(given: object, number: int) -> tuple[int, ...]:
    if isinstance(given, str):
        if not re.fullmatch(r"#?[0-9a-fA-F]{6}", given.strip()):
            raise InputError(f"palette: colour {number}: expected #rrggbb, got {given!r:.40}")
        return tuple(bytes.fromhex(given.strip().removeprefix("#")))
    values = np.asarray(given)
    if values.shape != (3,) or values.dtype.kind not in "ui" or values.min() < 0 or values.max() > 255:
        raise InputError(f"palette: colour {number}: expected three whole numbers from 0 to 255, got {given!r:.60}")
    return tuple(values.tolist())
