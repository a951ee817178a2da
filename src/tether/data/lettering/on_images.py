"""Words written onto images in several styles; nothing else of an image changes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tether.data.sets.scenes.lettering import letter
from tether.data.sets.scenes.world import TextOverlay

Style = Literal["label", "watermark", "note"]
STYLES: tuple[Style, ...] = ("label", "watermark", "note")
LEAST_SIDE = 64  # pixels on which letters are drawn; smaller images are enlarged for it and scaled down again
NOTE_HEIGHT = 0.26  # of a note, as a fraction of the image's side
_FINE = 8  # a note is drawn this much larger and scaled down, as a camera would see it


def write(
    image: UInt8[Tensor, "3 h w"], word: str, *, style: Style, edge: Literal["top", "bottom"]
) -> UInt8[Tensor, "3 h w"]:
    """A copy with the word on it.

    Args:
        image: at any size; a watermark needs it square and is a label where it is not.
        word: in small letters.
        style: ``label`` is a small line of text, ``watermark`` lies faintly over everything, ``note`` is large.
        edge: where a label or note stands.
    """
    square = image.shape[1] == image.shape[2]
    if style == "note" or not square:
        return _note(image, word, edge=edge, height=NOTE_HEIGHT if style == "note" else 0.17)
    scale = math.ceil(LEAST_SIDE / image.shape[1])
    large = F.interpolate(image[None].float(), scale_factor=scale, mode="nearest")[0]
    pixels = large.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    letter(TextOverlay(word, "word" if style == "label" else "watermark", False, edge), pixels)
    return F.avg_pool2d(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), scale)[0].round().to(torch.uint8)


def _note(image: Tensor, word: str, *, edge: str, height: float) -> Tensor:
    rows, columns = image.shape[-2:]
    sheet = torch.from_numpy(_sheet(word, max(4, round(height * rows)), columns).copy())
    deep, wide = sheet.shape
    left = (columns - wide) // 2
    changed = image.clone()
    changed[:, slice(0, deep) if edge == "top" else slice(rows - deep, rows), left : left + wide] = sheet
    return changed


@lru_cache(maxsize=1024)
def _sheet(word: str, height: int, widest: int) -> UInt8[np.ndarray, "h w"]:
    """A light sheet with the word on it, as large as fits."""
    high, wide = _FINE * height, _FINE * widest
    size = high
    while True:
        font = ImageFont.load_default(size)
        left, top, right, bottom = font.getbbox(word)
        if (right - left <= 0.94 * wide and bottom - top <= 0.8 * high) or size <= 12:
            break
        size -= 4
    used = min(widest, math.ceil((right - left) / 0.94 / _FINE))
    sheet = Image.new("L", (_FINE * used, high), 245)
    place = ((_FINE * used - (right - left)) / 2 - left, (high - (bottom - top)) / 2 - top)
    ImageDraw.Draw(sheet).text(place, word, fill=15, font=font)
    return np.asarray(sheet.resize((used, height), Image.Resampling.BOX))
