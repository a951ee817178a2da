"""Small images of a page: all in one image file, so that a page of hundreds stays light, or one as a data URI."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.evaluate.embeddings import shrink

QUALITY = 82
SIDE = 72
"""Pixels of an image that stands alone."""


@dataclass(frozen=True, slots=True)
class SpriteSheet:
    """A grid of square cells, and where in it each image lies.

    Attributes:
        uri: the grid as a data URI (WebP).
        columns: cells in a row.
        rows: rows of cells.
        count: images in it.
    """

    uri: str
    columns: int
    rows: int
    count: int

    def position(self, index: int) -> str:
        """CSS ``background-position`` of one image."""
        column, row = index % self.columns, index // self.columns
        across = 100 * column / max(1, self.columns - 1)
        down = 100 * row / max(1, self.rows - 1)
        return f"{across:.4f}% {down:.4f}%"


def sprite(images: UInt8[np.ndarray, "n 3 s s"]) -> SpriteSheet:
    """Lay out and compress n images."""
    count, _, side, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * side, columns * side, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * side, index % columns * side
        grid[top : top + side, left : left + side] = image.transpose(1, 2, 0)
    return SpriteSheet(_webp(grid), columns, rows, count)


def thumbnail_uri(image: UInt8[Tensor, "3 h w"], *, side: int = SIDE) -> str:
    """One image as a data URI of at most ``side`` pixels."""
    return _webp(shrink(image[None], side=side)[0].permute(1, 2, 0).contiguous().numpy())


def _webp(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
