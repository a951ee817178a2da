"""Small images of a few rows, blurred unless a person asks to see them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt8

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data.curate.engine.step import IMAGE
from tether.data.curate.pools.pool import Pool
from tether.data.images import load

Display = Literal["blurred", "clear", "none"]
DISPLAYS: tuple[Display, ...] = ("blurred", "clear", "none")
SIDE = 64
_BLUR = 5  # pixels of 64: what kind of scene it is remains, faces and details do not
_ROWS = 8_192  # of a piece that are looked through
_SPEC = ImageSpec((SIDE, SIDE), resize="longest", fill=255)


def find(pool: Pool, *, piece: int, keys: Collection[str]) -> dict[str, bytes]:
    """Encoded images of rows, by the keys of their pairs; looked for at the beginning of a piece only."""
    wanted = {key: (key, key.rpartition("#")[0]) for key in keys}
    names = pa.array(sorted({name for pair in wanted.values() for name in pair if name}), pa.string())
    held: dict[str, bytes] = {}
    seen = 0
    for rows in pool.read(piece, columns="captions", extra=[IMAGE]):
        place = np.flatnonzero(pc.is_in(rows.keys, names))
        at = pa.array(place, pa.int64())
        found = zip(rows.keys.take(at).to_pylist(), rows.extra[IMAGE].take(at).to_pylist(), strict=True)
        held |= {key: data for key, data in found if data}
        seen += len(rows.keys)
        if seen >= _ROWS or all(any(name in held for name in pair) for pair in wanted.values()):
            break
    chosen = {key: next((held[name] for name in pair if name in held), None) for key, pair in wanted.items()}
    return {key: data for key, data in chosen.items() if data is not None}


def some(pool: Pool, *, count: int) -> list[bytes]:
    """The first images of pieces at even distances, ``count`` together."""
    pieces = pool.pieces()
    chosen = min(pieces, 4)
    found: list[bytes] = []
    for index in range(chosen):
        rows = next(pool.read(index * pieces // chosen, columns="captions", extra=[IMAGE]), None)
        if rows is None:
            continue
        images = rows.extra[IMAGE].drop_null()
        step = max(1, len(images) // max(1, count // chosen))
        found += images.take(pa.array(np.arange(0, len(images), step)[: count // chosen])).to_pylist()
    return found


def thumbnail(data: bytes, *, images: Display) -> UInt8[np.ndarray, "3 64 64"] | None:
    """The whole image on white, or None for one that cannot be opened."""
    from PIL import Image, ImageFilter

    try:
        small = load(data, _SPEC).numpy()
    except InputError:
        return None
    if images == "clear":
        return small
    blurred = Image.fromarray(np.ascontiguousarray(small.transpose(1, 2, 0))).filter(ImageFilter.GaussianBlur(_BLUR))
    return np.asarray(blurred).transpose(2, 0, 1)
