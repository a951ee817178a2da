"""One line of text in the middle of a plain square."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from PIL import Image, ImageDraw, ImageFont

from tether.core.errors import InputError
from tether.core.ranges import checked

STYLES: tuple[tuple[str, str], ...] = (("white", "black"), ("black", "white"), ("grey", "white"), ("grey", "black"))
"""Background and colour of the letters (opendatalab/CLIP-Parrot-Bias, commit a1552ce)."""
SIZE, POINTS = 224, 32
"""Side of the square and size of the letters, in pixels, of the same code."""
LEAST_POINTS = 6
"""Smaller letters cannot be told apart."""
Style = Literal[0, 1, 2, 3]
Size = Annotated[int, Ge(8)]
Points = Annotated[int, Ge(LEAST_POINTS)]
_ROOM = 0.96  # of the side that the line may take
_NO_CHARACTER = "\U0010fffd"  # of private use: every font draws its box for what it lacks


@checked
def render_text(
    text: str, *, size: Size = SIZE, points: Points = POINTS, style: Style = 0, font: str | Path | None = None
) -> Image.Image:
    """A square image with the text centred on it; where it does not fit, its letters are smaller.

    Source: sys_benchmark.py of opendatalab/CLIP-Parrot-Bias, which does not run on Pillow 10 and later.

    Args:
        text: one line; blanks around and between words become single ones.
        size: side in pixels.
        points: size of the letters in pixels.
        style: number in ``STYLES``.
        font: a TrueType or OpenType file; None for the free one that Pillow brings, which has Latin letters only.

    Raises:
        TypeError: not a string.
        InputError: an empty text, an unknown style, a size out of range, a character that the font lacks, or a text
            that fits at no legible size.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected str, got {type(text).__name__}")
    line = " ".join(text.split())
    if not line:
        raise InputError(f"text: expected something to draw, got {text!r}")
    if len(line) > size:  # no letter is narrower than a pixel; measuring a long line takes seconds
        raise InputError(f"text {text[:40]!r}: does not fit {size} pixels, with {len(line)} characters")
    name = None if font is None else str(font)
    lacking = sorted({character for character in line if character != " " and _lacks(name, character)})
    if lacking:
        raise InputError(f"text {text!r}: the font has no {''.join(lacking)!r}")
    background, colour = STYLES[style]
    for height in range(points, LEAST_POINTS - 1, -1):
        face = _face(name, height)
        left, top, right, bottom = face.getbbox(line)
        if max(right - left, bottom - top) <= _ROOM * size:
            image = Image.new("RGB", (size, size), background)
            place = (size - (right - left)) / 2 - left, (size - (bottom - top)) / 2 - top
            ImageDraw.Draw(image).text(place, line, fill=colour, font=face)
            return image
    raise InputError(f"text {text[:40]!r}: does not fit {size} pixels at {LEAST_POINTS} points")


@lru_cache(maxsize=64)
def _face(font: str | None, points: int) -> ImageFont.FreeTypeFont:
    if font is None:
        face = ImageFont.load_default(points)
        if not isinstance(face, ImageFont.FreeTypeFont):
            raise InputError("font: this Pillow was built without FreeType and can draw no letters of a given size")
        return face
    try:
        return ImageFont.truetype(font, points)
    except OSError as error:
        raise InputError(f"font: cannot read {font}: {error}") from error


@lru_cache(maxsize=4096)
def _lacks(font: str | None, character: str) -> bool:
    face = _face(font, POINTS)
    missing: Any = face.getmask(_NO_CHARACTER)  # Pillow's own buffers, which its types do not call so
    drawn: Any = face.getmask(character)
    return drawn.size[0] * drawn.size[1] == 0 or (drawn.size == missing.size and bytes(drawn) == bytes(missing))
