"""Short names of what an image shows, equal or close for copies of other size, quality or format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt32, UInt64
from PIL import Image, ImageOps

from tether.core.errors import InputError
from tether.data.image_file import open_image, orientation
from tether.data.images import decode

_SIDE = 32  # of the grey image that is transformed, four times the side of what is kept of it
_KEPT = 8
_DRAFT = 4 * _SIDE  # JPEG is decoded at the smallest of its own scales that is at least this wide
_LARGE = 1 << 24  # pixels above which the copies of the way below would cost too much
_DIGITS = 3  # coefficients of grey 0..255; below it lies only the arithmetic's noise, which machines do not share
_GRID = 6
COLOURS = 3 * _GRID * _GRID
"""Numbers in a signature of colours: mean red, green and blue of 6 x 6 fields."""


@dataclass(frozen=True, slots=True)
class Prints:
    """What is known of n images.

    Attributes:
        readable: (n,) whether the image could be decoded; the rest of an unreadable one is 0.
        shape: (n,) 64 bits of its outline in grey.
        colours: (n, 108) mean red, green and blue of 6 x 6 fields, row by row, 0..255.
        pixels: (n,) width times height.
    """

    readable: Bool[np.ndarray, " n"]
    shape: UInt64[np.ndarray, " n"]
    colours: UInt8[np.ndarray, "n 108"]
    pixels: UInt32[np.ndarray, " n"]


def fingerprints(images: Sequence[bytes | None]) -> Prints:
    """The perceptual hash (pHash) and the coarse colours of images.

    The shape's bits say which of the 64 lowest frequencies of the cosine transform of the 32 x 32 grey image lie
    above their median, as the library ImageHash has it; unlike there the image is laid over white where it is
    transparent, turned upright, and coefficients are rounded, so that plain and symmetric images give the same bits
    on every machine. A red and a green heart, or two faces that differ by a smile, are one shape that
    ``colours`` tells apart.

    Args:
        images: encoded files; None or what is no image is unreadable.
    """
    count = len(images)
    readable = np.zeros(count, np.bool_)
    grey = np.zeros((count, _SIDE, _SIDE), np.float64)
    colours = np.zeros((count, COLOURS), np.uint8)
    pixels = np.zeros(count, np.uint32)
    for index, data in enumerate(images):
        if not data:
            continue
        try:
            image, pixels[index] = _small(data)
        except InputError:
            continue
        readable[index] = True
        grey[index] = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
        colours[index] = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BOX)).reshape(COLOURS)
    return Prints(readable, _bits(grey), colours, pixels)


def _bits(grey: Float[np.ndarray, "n 32 32"]) -> UInt64[np.ndarray, " n"]:
    low = np.round(_cosines() @ grey @ _cosines().T, _DIGITS).reshape(len(grey), _KEPT * _KEPT)
    above = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").astype(np.uint64).reshape(len(grey))


@cache
def _cosines() -> Float[np.ndarray, "8 32"]:
    """The lowest rows of the cosine transform (DCT-II, as scipy scales it)."""
    frequency, place = np.arange(_KEPT)[:, None], np.arange(_SIDE)[None]
    return 2 * np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))


def _small(data: bytes) -> tuple[Image.Image, int]:
    """An upright RGB image, reduced where its format allows that for nothing, and its true number of pixels."""
    with open_image(data, name="image") as opened:
        pixels = opened.width * opened.height
        opened.draft("RGB", (_DRAFT, _DRAFT))
        if opened.mode.startswith("I") or opened.mode == "F" or opened.width * opened.height > _LARGE:
            return Image.fromarray(decode(data).permute(1, 2, 0).contiguous().numpy()), pixels
        opened.load()
        image = opened if orientation(opened) == 1 else ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB"), pixels
