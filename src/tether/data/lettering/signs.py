"""Words as a camera sees them on signs: in colour, slanted, turned, blurred, noisy, with bars before them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageChops, ImageFilter

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, NonNegative, Whole, checked
from tether.data.lettering.square import render_text

_POINTS = 40  # at which a word is drawn before it is scaled
_CONTRAST = 90  # grey levels between paper and letters, at least
_SLANT, _TURN = 0.25, 4.0  # shear and degrees, at most
_BAR = 0.55  # of the width of a letter that a bar covers
_ONSETS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "sh",
    "st",
)
_ONSETS += ("t", "th", "tr", "v", "w", "")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou")
_CODAS = ("", "", "n", "r", "l", "s", "t", "d", "m", "ck", "nd", "st", "x")


@checked
@dataclass(frozen=True, kw_only=True)
class Wear:
    """What makes a word hard to read.

    Attributes:
        blur: standard deviation in pixels of an image 32 pixels high; higher ones are blurred in proportion.
        noise: standard deviation in grey levels of 0..255.
        bars: upright bars, each over a part of one letter and over the whole height.
    """

    blur: NonNegative = 0.0
    noise: NonNegative = 0.0
    bars: Whole = 0


GRADES = {
    "clean": Wear(),
    "light": Wear(blur=1.0, noise=8.0),
    "middle": Wear(blur=2.0, noise=16.0),
    "heavy": Wear(blur=3.0, noise=24.0),
    "occluded": Wear(noise=8.0, bars=2),
}
"""Wear by name."""


@checked
def draw_sign(
    word: str,
    *,
    rng: np.random.Generator,
    height: Count = 32,
    width: Count = 128,
    wear: Wear = GRADES["clean"],
    fonts: Sequence[str | Path] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """A word on a sign.

    Colours, font, slant, turn and margins are drawn before the wear, so that equal generators give one sign in all its
    grades.

    Args:
        word: one line.
        rng: of all draws.
        height: in pixels.
        width: in pixels; a word that is wider is narrowed.
        wear: what makes it hard to read.
        fonts: TrueType or OpenType files, of which one is drawn; none takes the free one that Pillow brings.

    Raises:
        InputError: an empty word, a character that the font lacks, or a font that cannot be read.

    Example:
        >>> import numpy as np
        >>> from tether.data.lettering.signs import GRADES, draw_sign
        >>> draw_sign("exit", rng=np.random.default_rng(0), wear=GRADES["heavy"]).shape
        (32, 128, 3)
    """
    font = fonts[int(rng.integers(len(fonts)))] if fonts else None
    paper, ink = _colours(rng)
    slant, turn = rng.uniform(-_SLANT, _SLANT), rng.uniform(-_TURN, _TURN)
    share, stretch, place = rng.uniform(0.6, 0.9), rng.uniform(0.85, 1.15), rng.uniform(size=2)
    cover = _placed(_ink(word, font, slant, turn), height, width, share, stretch, place)
    pixels = paper + cover[..., None] * (ink - paper)
    pixels = _barred(pixels, rng, wear.bars, letters=len(word), ink=cover.max(0) > 0)
    pixels = pixels.clip(0, 255).round().astype(np.uint8)
    if wear.blur:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(wear.blur * height / 32)))
    if wear.noise:
        pixels = (pixels + rng.normal(0, wear.noise, pixels.shape)).clip(0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)


@checked
def lexicon(count: Count, *, longest: Count = 8, seed: Whole = 0) -> tuple[str, ...]:
    """Different words of small letters that could be English and mostly are not, 3 to ``longest`` letters long.

    Raises:
        InputError: more words than there are.
    """
    rng = np.random.default_rng(hash_int("lexicon", seed=seed))
    found: dict[str, None] = {}
    for _ in range(20 * count):
        parts = [kind[int(rng.integers(len(kind)))] for kind in (_ONSETS, _VOWELS, _CODAS) * int(rng.integers(1, 4))]
        word = "".join(parts)
        if 3 <= len(word) <= longest:
            found[word] = None
        if len(found) == count:
            return tuple(found)
    raise InputError(f"count: expected at most about {len(found)} words of up to {longest} letters, got {count}")


def _colours(rng: np.random.Generator) -> tuple[Float[np.ndarray, 3], Float[np.ndarray, 3]]:
    while True:
        paper, ink = rng.uniform(0, 255, (2, 3))
        if abs(paper.mean() - ink.mean()) >= _CONTRAST:
            return paper, ink


def _ink(word: str, font: str | Path | None, slant: float, turn: float) -> Image.Image:
    """How much of each pixel a slanted and turned word covers, without margins."""
    side = _POINTS * (len(word) + 2)
    drawn = render_text(word, size=side, points=_POINTS, style=0, font=font)
    edge = max(0, side // 2 - 2 * _POINTS - math.ceil(side * math.tan(math.radians(_TURN)) / 2))
    drawn = ImageChops.invert(drawn.crop((0, edge, side, side - edge)).convert("L"))  # what no turn brings ink to goes
    slanted = (1, slant, -slant * drawn.height / 2, 0, 1, 0)
    drawn = drawn.transform(drawn.size, Image.Transform.AFFINE, slanted, Image.Resampling.BILINEAR)
    drawn = drawn.rotate(turn, Image.Resampling.BILINEAR)
    return drawn.crop(drawn.getbbox())


def _placed(
    ink: Image.Image, height: int, width: int, share: float, stretch: float, place: Float[np.ndarray, 2]
) -> Float[np.ndarray, "h w"]:
    """The word within the sign, at a share of its height, its place in 0..1 of what is left beside it."""
    high = max(1, round(share * height))
    wide = max(1, min(round(ink.width * stretch * high / ink.height), round(0.96 * width)))
    scaled = np.asarray(ink.resize((wide, high), Image.Resampling.BOX), dtype=np.float64) / 255
    top, left = (int(part * (free + 1)) for part, free in zip(place, (height - high, width - wide), strict=True))
    cover = np.zeros((height, width))
    cover[top : top + high, left : left + wide] = scaled
    return cover


def _barred(
    pixels: Float[np.ndarray, "h w 3"], rng: np.random.Generator, bars: int, *, letters: int, ink: np.ndarray
) -> Float[np.ndarray, "h w 3"]:
    columns = np.flatnonzero(ink)
    first, last = columns[0], columns[-1] + 1
    wide = max(1, round(_BAR * (last - first) / letters))
    for letter in rng.choice(letters, size=min(bars, letters), replace=False):
        middle = first + (letter + 0.5) * (last - first) / letters
        left = max(0, round(middle - wide / 2))
        pixels[:, left : left + wide] = rng.uniform(0, 255, 3)
    return pixels
