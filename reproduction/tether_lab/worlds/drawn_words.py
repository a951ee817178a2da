"""Words drawn with a letter a cell, clean, blurred or with letters hidden, and the small models that read them."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tether.core.hash_rng import hash_int
from tether.models import Clip, create
from tether.tasks.read import Charset, DualReader
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip, cached_model
from tether_lab.worlds.in_memory import fit_captions

LONGEST, CELL, HEIGHT = 8, 8, 8
"""Letters of a word, at most, and pixels of a letter's cell."""
POINTS = (15, 17)
NOISE = 12.0
"""Standard deviation of the noise of every crop, in grey levels."""
HIDDEN = 1
"""Letters of an occluded word that a bar covers whole."""
LETTERS = Charset(string.ascii_lowercase)
DIM = 64
PERMS = 4
"""Orders of reading; both ways of reading and one pair at random."""


def generator_of(lab: Lab, name: str) -> np.random.Generator:
    """Draws that depend on the seed and a name alone."""
    return np.random.default_rng(hash_int(name, seed=lab.seed, salt="drawn words"))


def draw_words(
    words: Sequence[str], *, rng: np.random.Generator, blur: float = 0.0, hidden: int = 0
) -> UInt8[Tensor, "n 3 8 64"]:
    """Crops of words, a word in one of two sizes, in dark letters on light paper.

    Args:
        words: of small letters, at most ``LONGEST``.
        rng: of all draws.
        blur: standard deviation in pixels.
        hidden: letters of each that a grey bar covers.
    """
    crops = np.empty((len(words), HEIGHT, CELL * LONGEST), np.float32)
    for row, word in enumerate(words):
        ink, paper = rng.uniform(0, 60), rng.uniform(180, 255)
        glyphs = _glyphs(POINTS[int(rng.integers(len(POINTS)))])
        cover = np.zeros((HEIGHT, CELL * LONGEST), np.float32)
        for place, letter in enumerate(word):
            left = place * CELL
            cover[:, left : left + CELL] = glyphs[letter]
        crops[row] = paper + cover * (ink - paper)
        for place in rng.permutation(len(word))[:hidden]:
            crops[row, :, place * CELL : (place + 1) * CELL] = rng.uniform(0, 255)
    found = blurred(torch.from_numpy(crops)[:, None], blur)
    found = found + torch.from_numpy(rng.normal(0, NOISE, found.shape).astype(np.float32))
    return found.clamp(0, 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def blurred(images: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Images under a Gaussian blur that mirrors them at the edge."""
    if not sigma:
        return images
    reach = min(round(3 * sigma), images.shape[2] - 1, images.shape[3] - 1)
    steps = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = (-(steps**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    rows = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="reflect"), kernel[:, :, None], groups=images.shape[1])
    return F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="reflect"), kernel[..., None], groups=images.shape[1])


@lru_cache(maxsize=len(POINTS))
def _glyphs(points: int) -> dict[str, Float[np.ndarray, "h w"]]:
    """Each letter in the middle of its cell, on a common line; a wider one is narrowed."""
    font = ImageFont.load_default(points)
    found = dict[str, np.ndarray]()
    for letter in string.ascii_lowercase:
        left, _, right, _ = font.getbbox(letter)
        sheet = Image.new("L", (max(2 * CELL, round(right - left)), 2 * HEIGHT), 0)
        at = ((sheet.width - (right - left)) / 2 - left, 2 * HEIGHT * 0.75)
        ImageDraw.Draw(sheet).text(at, letter, fill=255, font=font, anchor="ls")
        found[letter] = np.asarray(sheet.resize((CELL, HEIGHT), Image.Resampling.BOX), np.float32) / 255
    return found


def word_clip(lab: Lab, name: str, pixels: UInt8[Tensor, "n 3 h w"], words: Sequence[str], *, steps: int) -> Clip:
    """A tiny CLIP that learnt crops and their words, in eval mode; at the first call, then from the user's cache."""

    def teach() -> Clip:
        model = create("tiny", seed=lab.seed, dim=DIM, image_size=(HEIGHT, CELL * LONGEST), patch=CELL)
        chance = lab.generator(name)
        return fit_captions(model, pixels, words, steps=lab.steps(steps), seed=lab.seed, generator=chance)

    return cached_clip("word-clip", teach, made_by=Path(__file__), facts=[name, lab.seed, lab.smoke, steps])


def right(read: Sequence[str], words: Sequence[str]) -> float:
    """Words read without a mistake, in percent."""
    return 100 * sum(one == other for one, other in zip(read, words, strict=True)) / len(words)


def new_reader(lab: Lab, clip: Clip) -> DualReader:
    """A reader that has learnt nothing."""
    return DualReader(
        clip, charset=LETTERS, max_length=LONGEST, heads=4, perms=PERMS, decoder_rate=1.0, text_length=8, seed=lab.seed
    )


def kept_reader(lab: Lab, name: str, *, facts: object, make: Callable[[], DualReader]) -> DualReader:
    """A reader that is taught at the first call, then read from the user's cache."""
    folder = cached_model(
        f"{name}-reader",
        made_by=Path(__file__),
        facts=[facts, lab.seed, lab.smoke],
        make=lambda place: make().save(place),
    )
    return DualReader.load(folder)
