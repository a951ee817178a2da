"""Text in the image: words, numbers and watermarks that are true of the scene or not."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from tether.core.ranges import checked
from tether.data.sets.scenes.world import SHAPES, Dice, Scene, TextOverlay

LetteringKind = Literal["word", "number", "watermark"]
_LABEL_HEIGHT, _WATERMARK_HEIGHT = 0.17, 0.15  # of the image's side
_WATERMARK_COVER = 0.42


@checked
def draw_lettering(scene: Scene, dice: Dice, *, kind: LetteringKind, agrees: bool) -> TextOverlay:
    """Text for a scene: the name of a shape in it or a count of its things, or one that is not true of it."""
    if kind == "number":
        count = len(scene.things)
        text = str(count if agrees else dice.pick([number for number in range(1, 10) if number != count]))
    else:
        present = list(dict.fromkeys(thing.shape for thing in scene.things))
        text = dice.pick(present if agrees else [shape for shape in SHAPES if shape not in present])
    return TextOverlay(text, kind, agrees, _emptier_edge(scene, dice))


def _emptier_edge(scene: Scene, dice: Dice) -> Literal["top", "bottom"]:
    """The edge whose strip covers less of the things, so that a label hides as little as it can."""
    top = sum(max(0.0, _LABEL_HEIGHT - (thing.y - thing.units / 128)) for thing in scene.things)
    bottom = sum(max(0.0, _LABEL_HEIGHT - (1 - thing.y - thing.units / 128)) for thing in scene.things)
    edges: tuple[Literal["top", "bottom"], ...] = ("top", "bottom")
    return dice.pick(edges) if top == bottom else "top" if top < bottom else "bottom"


def letter(lettering: TextOverlay, pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Draw the text into ``pixels``; the mask is every pixel that it covers, however little."""
    size = pixels.shape[0]
    if lettering.kind == "watermark":
        cover = _watermark(lettering.text, size)
        part = cover[..., None] * _WATERMARK_COVER
        tone = 255.0 if pixels.mean() < 128 else 20.0
        pixels[:] = (pixels * (1 - part) + tone * part + 0.5).astype(np.uint8)
        return cover > 0
    glyphs = _glyphs(lettering.text, round(size * _LABEL_HEIGHT), size - 4)
    height, width = glyphs.shape
    gap = max(1, size // 64)
    top = gap if lettering.edge == "top" else size - height - gap
    left = (size - width) // 2
    window = pixels[top : top + height, left : left + width]
    # Dark letters on a light strip can be read on every background.
    window[:] = (245 - glyphs * 230)[..., None].astype(np.uint8)
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@lru_cache(maxsize=1024)
def _glyphs(text: str, height: int, widest: int) -> Float[np.ndarray, "h w"]:
    """Cover of a line of text in [0, 1], ``height`` pixels high with its margin, at most ``widest`` wide."""
    points = height
    while True:
        font = ImageFont.load_default(points)
        _, top, _, bottom = font.getbbox("bdghp" + text)
        own_left, _, own_right, _ = font.getbbox(text)
        width = round(own_right - own_left) + 4
        if (bottom - top <= height and width <= widest) or points <= 4:
            break
        points -= 1
    image = Image.new("L", (width, height), 0)
    ImageDraw.Draw(image).text((2 - own_left, (height - (bottom - top)) / 2 - top), text, fill=255, font=font)
    return np.asarray(image, dtype=np.float64) / 255


@lru_cache(maxsize=256)
def _watermark(text: str, size: int) -> Float[np.ndarray, "size size"]:
    """The text repeated along slanted lines over the whole image."""
    glyphs = _glyphs(text, max(8, round(size * _WATERMARK_HEIGHT)), 4 * size)
    height, width = glyphs.shape
    side = 2 * size
    sheet = np.zeros((side, side))
    gap = max(4, size // 10)
    for line, top in enumerate(range(0, side - height, height + gap)):
        for left in range((line % 2) * (width + gap) // 2, side - width, width + gap):
            sheet[top : top + height, left : left + width] = glyphs
    turned = Image.fromarray((sheet * 255).astype(np.uint8)).rotate(24, Image.Resampling.BICUBIC)
    start = size // 2
    cover = np.asarray(turned, dtype=np.float64)[start : start + size, start : start + size] / 255
    return np.where(cover < 0.04, 0.0, cover)
