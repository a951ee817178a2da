"""What lies under a mask, cut out of an image: pixels outside of the mask get one colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, Share, checked
from tether.core.types import ImageSpec, Side
from tether.data.images import resize

Fill = Literal["mean", "black", "none"] | Sequence[float]
"""Colour outside of a mask: CLIP's mean colour, black, the image itself (``none``), or three numbers of 0 to 255."""
MEAN = tuple(255 * value for value in ImageSpec((1, 1)).mean)
"""CLIP's mean colour, (122.8, 116.7, 104.1)."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedCrop:
    """One thing alone.

    Attributes:
        pixels: (3, h, w) 0 to 255, uint8 where the image is, else floats.
        mask: True inside.
    """

    pixels: Tensor
    mask: Bool[Tensor, "h w"]


@dataclass(frozen=True, slots=True, eq=False)
class MaskedCrops:
    """The things of one image at one size.

    Attributes:
        pixels: (v, 3, h, w), of the masks that hold a pixel.
        masks: True inside.
        valid: which of the masks that were given these are.
    """

    pixels: Tensor
    masks: Bool[Tensor, "v h w"]
    valid: Bool[Tensor, " q"]


@checked
def masked_crop(
    image: Tensor,
    mask: Bool[Tensor, "h w"],
    *,
    box: Sequence[float] | None = None,
    fill: Fill = "mean",
    expand: Positive = 1.0,
    size: tuple[Side, Side] | None = None,
) -> MaskedCrop:
    """Cut the box around a mask out of an image, with one colour outside of the mask.

    Source: OVSeg (arXiv 2210.04150), released code. As there, floats are resized bicubically without antialiasing, and
    may leave the range of 0 to 255; bytes are resized as everywhere else.

    Args:
        image: (3, h, w) pixels of 0 to 255, uint8 or floats.
        mask: True inside.
        box: x0, y0, x1, y1 in pixels, the last two exclusive; None takes that around the mask.
        fill: see ``Fill``.
        expand: width and height of the crop, as a multiple of the box's, around its middle. Corners are cut off to
            whole pixels, and at the image's edges.
        size: height and width that the crop is resized to, whatever its aspect; None leaves it.

    Raises:
        InputError: an image or a mask of another kind or size, an empty mask, or a box that is none.

    Example:
        >>> import torch
        >>> from tether.methods.ovseg.masked_crops import masked_crop
        >>> image, mask = torch.full((3, 20, 30), 200, dtype=torch.uint8), torch.zeros(20, 30, dtype=torch.bool)
        >>> mask[5, 10:14] = mask[6, 12] = True
        >>> masked_crop(image, mask, fill="black").pixels[0].tolist()
        [[200, 200, 200, 200], [0, 0, 200, 0]]
    """
    check_masks(image, mask[None])
    if not mask.any():
        raise InputError("mask: expected something inside, got an empty mask")
    colour = colour_of(fill)
    left, top, right, bottom = _window(_around(mask) if box is None else box, mask, expand)
    pixels, inside = image[:, top:bottom, left:right], mask[top:bottom, left:right]
    if colour is not None:
        paint = torch.tensor(colour, dtype=torch.float64)
        paint = paint.to(image.device, image.dtype) if image.is_floating_point() else paint.round().to(image)
        pixels = torch.where(inside, pixels, paint[:, None, None])
    if size is not None:
        pixels = _resized(pixels, size)
        inside = F.interpolate(inside[None, None].float(), size, mode="nearest")[0, 0] > 0
    return MaskedCrop(pixels, inside)


@checked
def masked_crops(
    image: Tensor,
    masks: Tensor,
    *,
    size: tuple[Side, Side],
    threshold: Share = 0.5,
    fill: Fill = "mean",
    expand: Positive = 1.0,
) -> MaskedCrops:
    """``masked_crop`` of each mask that holds a pixel.

    Args:
        image: (3, h, w) pixels of 0 to 255, uint8 or floats.
        masks: (q, h, w) of the image's size, bool or numbers in [0, 1].
        size: height and width of the crops.
        threshold: a pixel of more than this is inside; the paper's configuration has 0.4.
        fill: see ``Fill``.
        expand: see ``masked_crop``.

    Raises:
        InputError: see ``masked_crop``, or numbers outside of [0, 1].
    """
    if masks.is_floating_point():
        if not ((masks >= 0) & (masks <= 1)).all():  # which NaN is not
            raise InputError(f"masks: expected numbers in [0, 1], got {masks.min():g} to {masks.max():g}")
        masks = masks > threshold
    check_masks(image, masks)
    valid = masks.flatten(1).any(dim=1)
    made = [masked_crop(image, mask, fill=fill, expand=expand, size=size) for mask in masks[valid]]
    if not made:
        return MaskedCrops(image.new_zeros(0, 3, *size), masks.new_zeros(0, *size), valid)
    return MaskedCrops(torch.stack([one.pixels for one in made]), torch.stack([one.mask for one in made]), valid)


def colour_of(fill: Fill) -> tuple[float, ...] | None:
    """Three numbers of 0 to 255; None for ``none``.

    Raises:
        InputError: other numbers.
    """
    if isinstance(fill, str):
        return {"mean": MEAN, "black": (0.0, 0.0, 0.0), "none": None}[fill]
    if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
        raise InputError(f"fill: expected three numbers of 0 to 255, got {list(fill)!r:.100}")
    return tuple(map(float, fill))


def check_masks(image: Tensor, masks: Tensor) -> None:
    """Refuse what is no image, or masks that are not its.

    Raises:
        InputError: see above.
    """
    if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        got = f"{image.dtype} {tuple(image.shape)}"
        raise InputError(f"image: expected (3, h, w) of uint8 or floats, 0 to 255, got {got}")
    if masks.dtype != torch.bool or masks.ndim != 3 or masks.shape[1:] != image.shape[1:]:
        wanted, got = tuple(image.shape[1:]), f"{masks.dtype} {tuple(masks.shape[1:])}"
        raise InputError(f"mask: expected bool {wanted}, of the image's size, got {got}")


def _around(mask: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    down, across = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def _window(box: Sequence[float], mask: Tensor, expand: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, in whole pixels of the image."""
    x0, y0, x1, y1 = map(float, box) if len(box) == 4 else (1.0, 1.0, 0.0, 0.0)
    height, width = mask.shape
    wide, high = (x1 - x0) * expand / 2, (y1 - y0) * expand / 2
    across, down = (x0 + x1) / 2, (y0 + y1) / 2
    ends = [int(end) for end in (across - wide, down - high, across + wide, down + high)]
    left, top, right, bottom = max(ends[0], 0), max(ends[1], 0), min(ends[2], width), min(ends[3], height)
    if not (x0 < x1 and y0 < y1 and left < right and top < bottom):
        raise InputError(f"box: expected x0 < x1 and y0 < y1 in the image's {width} x {height} pixels, got {list(box)}")
    return left, top, right, bottom


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if not pixels.is_floating_point():
        return resize(pixels, *size, "bicubic")
    return F.interpolate(pixels[None], size, mode="bicubic", align_corners=False)[0]
