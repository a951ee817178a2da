"""Boxes in an image's own pixels: held to what they must be, and cut out of it."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError

Unit = Literal["pixel", "share"]
"""What numbers of boxes are: pixels of the image as it lies upright, or shares of its width and height."""
Window = tuple[int, int, int, int]
"""Left, top, right and bottom of whole pixels; the last two are not inside."""
ROUNDING = 1e-3
"""How far beyond the border a box in shares may reach: half precision and pixels rounded up do."""
SHARES = 2.0
"""A number of a box above it is no share of a side, however careless."""


def unit_of(boxes: Float[np.ndarray, "n 4"]) -> Unit:
    """What boxes are in where nobody says it.

    Pixels where no box lies within 0 and 1 and a number is above ``SHARES``; else shares. What is neither is then
    refused as shares.

    Args:
        boxes: two corners each, or a corner and the sides.

    Example:
        >>> import numpy as np
        >>> from tether.data.boxes import unit_of
        >>> unit_of(np.array([[0.0, 0.5, 1.0, 1.0]])), unit_of(np.array([[0.0, 5.0, 10.0, 10.0]]))
        ('share', 'pixel')
    """
    inside = ((boxes >= -ROUNDING) & (boxes <= 1 + ROUNDING)).all(axis=1)  # which NaN is not
    return "pixel" if not inside.any() and (boxes > SHARES).any() else "share"


def said_of_unit(unit: Unit) -> str:
    """What a report says of it."""
    return f"boxes: taken to be in {'pixels of the image' if unit == 'pixel' else 'shares of its width and height'}"


def sound_boxes(
    boxes: Float[Tensor, "n 4"] | Int[Tensor, "n 4"], *, size: tuple[int, int], least: tuple[float, float] = (1, 1)
) -> Float[Tensor, "n 4"]:
    """Boxes that lie inside an image and hold a pixel.

    What reaches beyond the image is cut off, with a warning. A side of which less than one pixel is left is widened to
    ``least``, around its middle.

    Args:
        boxes: x0, y0, x1, y1 in pixels.
        size: height and width of the image.
        least: height and width that such a side gets.

    Raises:
        InputError: not four finite numbers each, or an empty or inverted box; it names the row.

    Example:
        >>> import torch
        >>> from tether.data.boxes import sound_boxes
        >>> sound_boxes(torch.tensor([[2.0, 3.0, 2.5, 9.0]]), size=(10, 20), least=(4, 4)).tolist()
        [[0.25, 3.0, 4.25, 9.0]]
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes: expected (n, 4) of x0, y0, x1, y1, got {tuple(boxes.shape)}")
    boxes = boxes if boxes.is_floating_point() else boxes.double()
    for good, expected in (
        (boxes.isfinite().all(1), "4 finite numbers"),
        ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]), "x0 < x1 and y0 < y1"),
    ):
        if not good.all():
            row = int((~good).nonzero()[0])
            raise InputError(f"boxes: box {row}: expected {expected} (x0, y0, x1, y1), got {boxes[row].tolist()}")
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    inside = torch.minimum(boxes.clamp_min(0), limit)
    if not torch.equal(inside, boxes):
        row = int((inside != boxes).any(1).nonzero()[0])
        warnings.warn(
            f"boxes: box {row} reaches beyond the image of {width} x {height} pixels and is cut off: "
            f"{boxes[row].tolist()}",
            stacklevel=2,
        )
    for axis, (side, short) in enumerate(((width, least[1]), (height, least[0]))):
        wanted = min(max(1.0, short), side)
        low, high = inside[:, axis], inside[:, axis + 2]
        narrow = high - low < 1
        start = ((low + high - wanted) / 2).clamp(0, side - wanted)
        inside[:, axis], inside[:, axis + 2] = (
            torch.where(narrow, start, low),
            torch.where(narrow, start + wanted, high),
        )
    return inside


def window_of(box: Float[Tensor, 4] | list[float], *, size: tuple[int, int]) -> Window:
    """All pixels that a box inside an image of this height and width touches, at least one."""
    x0, y0, x1, y1 = box.tolist() if isinstance(box, Tensor) else box
    left, top = min(math.floor(x0), size[1] - 1), min(math.floor(y0), size[0] - 1)
    return left, top, max(left + 1, min(math.ceil(x1), size[1])), max(top + 1, min(math.ceil(y1), size[0]))


def cut(pixels: UInt8[Tensor, "3 h w"], window: Window) -> UInt8[Tensor, "3 H W"]:
    """The pixels of a window; they share the image's memory."""
    left, top, right, bottom = window
    return pixels[:, top:bottom, left:right]


def cut_box(pixels: UInt8[Tensor, "3 h w"], box: list[float]) -> UInt8[Tensor, "3 H W"]:
    """All pixels that a box in shares of the image touches."""
    height, width = pixels.shape[1:]
    size = (width, height, width, height)
    return cut(pixels, window_of([end * side for end, side in zip(box, size, strict=True)], size=(height, width)))
