"""Lines and small pages of dark letters on light paper, in several faces and sizes, and texts to write on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Share, Whole, checked
from tether.data.lettering.signs import lexicon
from tether.data.lettering.square import LEAST_POINTS, _face, _lacks

Face = Literal["plain", "bold", "slanted", "narrow", "typewriter"]
FACES: tuple[Face, ...] = ("plain", "bold", "slanted", "narrow", "typewriter")
"""Faces without a font file: Pillow's free font, heavier, slanted or narrowed, and its old one of fixed width."""
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Digits and capitals."""
Points = tuple[Annotated[int, Ge(LEAST_POINTS)], Annotated[int, Ge(LEAST_POINTS)]]
_LEADING = 1.35  # from line to line, over the height of the letters
_SLANT = 0.22
_MARGIN = 0.02  # of the side, on all edges


@dataclass(frozen=True, slots=True, eq=False)
class DrawnPages:
    """Images of pages with what stands on them.

    Attributes:
        image: (n, 3, size, size) uint8.
        texts: of each; lines are separated by single line feeds.
    """

    image: UInt8[Tensor, "n 3 h w"]
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse texts that are not one for each image."""
        if len(self.image) != len(self.texts):
            raise InputError(f"texts: expected one for each of {len(self.image)} images, got {len(self.texts)}")

    def __len__(self) -> int:
        """How many pages."""
        return len(self.texts)


@checked
def draw_page(
    text: str,
    *,
    rng: np.random.Generator,
    size: Count = 128,
    points: Points = (14, 24),
    spread: Share = 1.0,
    faces: Sequence[Face | Path] = FACES,
) -> UInt8[np.ndarray, "h w 3"]:
    r"""A page with one or more lines that begin at a drawn place; where they do not fit, letters are smaller.

    Args:
        text: lines, separated by line feeds.
        rng: of face, size of letters, place and shades.
        size: side of the square page in pixels.
        points: least and most size of letters in pixels.
        spread: share of the free room, from the top left, within which the text begins.
        faces: of which one is drawn: names of ``FACES``, or paths of TrueType or OpenType files.

    Raises:
        InputError: nothing to write, points in the wrong order, no face, a character that the face lacks, or a text
            that fits at no legible size.

    Example:
        >>> import numpy as np
        >>> from tether.data.lettering.pages import draw_page
        >>> draw_page("ROOM 7\\nFLOOR 2", rng=np.random.default_rng(0)).shape
        (128, 128, 3)
    """
    lines = [" ".join(line.split()) for line in text.split("\n")]
    if not any(lines):
        raise InputError(f"text: expected something to write, got {text!r:.100}")
    if points[0] > points[1] or not len(faces):
        raise InputError(f"points, faces: expected least and most and at least one face, got {points} and {faces}")
    face = faces[int(rng.integers(len(faces)))]
    wanted = int(rng.integers(points[0], points[1] + 1))
    paper, ink, place = rng.uniform(240, 255), rng.uniform(0, 80), spread * rng.uniform(size=2)
    free = size - 2 * round(_MARGIN * size)
    for height in range(wanted, LEAST_POINTS - 1, -1):
        drawn = [_line(line, face, height) for line in lines]
        wide, high = (
            max(one.shape[1] for one in drawn),
            round(height * _LEADING * (len(lines) - 1)) + drawn[-1].shape[0],
        )
        if wide <= free and high <= free:
            break
    else:
        raise InputError(f"text {text[:40]!r}: does not fit {size} pixels at {LEAST_POINTS} points")
    left, top = (
        (size - free) // 2 + int(part * (free - used + 1)) for part, used in zip(place, (wide, high), strict=True)
    )
    cover = np.zeros((size, size))
    for number, one in enumerate(drawn):
        row = top + round(number * height * _LEADING)
        part = cover[row : row + one.shape[0], left : left + one.shape[1]]
        np.maximum(part, one[: part.shape[0]], out=part)
    grey = (paper + cover * (ink - paper)).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@checked
def random_texts(
    count: Whole,
    *,
    seed: Whole = 0,
    characters: str = CHARACTERS,
    lengths: tuple[Count, Count] = (1, 8),
    lines: tuple[Count, Count] = (1, 1),
    words: Share = 0.5,
) -> tuple[str, ...]:
    """Texts to write: lines that are each a word in capitals or a string of random characters.

    Args:
        count: of texts.
        seed: of all draws.
        characters: of random strings.
        lengths: least and most characters of a line; words have at least 3.
        lines: least and most of a text.
        words: share of lines that are words, where the lengths allow 3 characters.

    Raises:
        InputError: least above most, or no characters.
    """
    if lengths[0] > lengths[1] or lines[0] > lines[1] or not characters:
        raise InputError(
            f"lengths, lines: expected least and most, got {lengths} and {lines}; characters: at least one"
        )
    rng = np.random.default_rng(hash_int("texts", seed=seed, salt="pages"))
    known = [word.upper() for word in lexicon(2000, longest=lengths[1])] if words and lengths[1] >= 4 else []
    known = [word for word in known if len(word) >= lengths[0]]

    def line() -> str:
        if known and rng.uniform() < words:
            return known[int(rng.integers(len(known)))]
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        return "".join(characters[int(place)] for place in rng.integers(len(characters), size=length))

    return tuple("\n".join(line() for _ in range(int(rng.integers(lines[0], lines[1] + 1)))) for _ in range(count))


@checked
def draw_pages(
    texts: Sequence[str],
    *,
    seed: Whole = 0,
    size: Count = 128,
    points: Points = (14, 24),
    spread: Share = 1.0,
    faces: Sequence[Face | Path] = FACES,
) -> DrawnPages:
    """A page of each text; a page depends on the seed, its number and its text alone. Errors as for ``draw_page``."""
    image = torch.empty(len(texts), 3, size, size, dtype=torch.uint8)
    for row, text in enumerate(texts):
        rng = np.random.default_rng(hash_int(f"{row} {text}", seed=seed, salt="page"))
        page = draw_page(text, rng=rng, size=size, points=points, spread=spread, faces=faces)
        image[row] = torch.from_numpy(page).permute(2, 0, 1)
    return DrawnPages(image, tuple(texts))


def _line(text: str, face: Face | Path, height: int) -> np.ndarray:
    """How much of each pixel a line covers, cut to its letters from side to side, ``height`` and a bit high."""
    if not text:
        return np.zeros((height, 1))
    name = str(face) if isinstance(face, Path) else None
    lacking = sorted({letter for letter in text if letter != " " and _lacks(name, letter)})
    if lacking:
        raise InputError(f"text {text!r:.100}: the face {face} has no {''.join(lacking)!r}")
    if face == "typewriter":
        font = ImageFont.load_default_imagefont()
        high = 11
    else:
        font = _face(name, height)
        high = sum(font.getmetrics())
    stroke = max(1, round(height / 20)) if face == "bold" else 0
    wide = int(font.getlength(text)) + 4 + 2 * stroke + high
    image = Image.new("L", (wide, high + 2 * stroke), 0)
    ImageDraw.Draw(image).text((high // 2, stroke), text, fill=255, font=font, stroke_width=stroke)
    if face == "slanted":
        middle = image.height / 2
        slant = (1, _SLANT, -_SLANT * middle, 0, 1, 0)
        image = image.transform(image.size, Image.Transform.AFFINE, slant, Image.Resampling.BILINEAR)
    if face == "narrow":
        image = image.resize((max(1, round(0.72 * image.width)), image.height), Image.Resampling.BILINEAR)
    if face == "typewriter":
        image = image.resize((round(image.width * height / high), height), Image.Resampling.BILINEAR)
    box = image.getbbox()
    assert box is not None  # each letter draws something
    return np.asarray(image.crop((box[0], box[1], box[2], box[3])), dtype=np.float64) / 255
