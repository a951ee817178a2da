"""Boxes that nobody has drawn: grids, random ones, crops, and others moved or enlarged; and what they show, cut out.

Boxes are x0, y0, x1, y1 in shares of an image's width and height; all chance comes from a generator.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import roi_align

from tether.core.errors import InputError
from tether.core.ranges import Count, Part, Positive, Share, checked

Proposals = tuple[Float[Tensor, "b m 4"], Bool[Tensor, "b m"]]
"""Boxes of b images in m places each, and which places hold one; the others hold zeros."""


@checked
def random_grids(images: Count, *, generator: torch.Generator, max_split: Count = 6, most: Count = 20) -> Proposals:
    """The cells of a grid of each image, in random order (CLIPSelf, arXiv 2310.01403).

    Rows m and columns n are one of all pairs with ``1 <= m <= max_split`` and ``m / 2 <= n <= min(2 m, max_split)``.

    Args:
        images: how many.
        generator: of the draws, on the CPU.
        max_split: see above.
        most: cells of an image; of more, some are taken.

    Example:
        >>> import torch
        >>> from tether.data.region_proposals import random_grids
        >>> boxes, valid = random_grids(2, generator=torch.Generator().manual_seed(0), max_split=1, most=2)
        >>> boxes[0].tolist(), valid.tolist()
        ([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], [[True, False], [True, False]])
    """
    splits = [
        (rows, columns)
        for rows in range(1, max_split + 1)
        for columns in range((rows + 1) // 2, min(2 * rows, max_split) + 1)
    ]
    boxes, valid = torch.zeros(images, most, 4), torch.zeros(images, most, dtype=torch.bool)
    for image, number in enumerate(torch.randint(len(splits), (images,), generator=generator).tolist()):
        rows, columns = splits[number]
        order = torch.randperm(rows * columns, generator=generator)[:most]
        row, column = order // columns, order % columns
        cells = torch.stack([column / columns, row / rows, (column + 1) / columns, (row + 1) / rows], dim=1)
        boxes[image, : len(order)], valid[image, : len(order)] = cells, True
    return boxes, valid


@checked
def random_boxes(
    count: Count, *, generator: torch.Generator, size: tuple[Count, Count], step: Count = 8
) -> Float[Tensor, "m 4"]:
    """Boxes whose corners lie on a grid of ``step`` pixels, every pair as likely (RegionCLIP's released code).

    Args:
        count: how many.
        generator: of the draws, on the CPU.
        size: height and width of the image in pixels.
        step: of the grid.

    Raises:
        InputError: an image smaller than a step.
    """
    if min(size) < step:
        raise InputError(f"random boxes: expected an image of at least {step} pixels a side, got {size}")
    sides = []
    for side in size[::-1]:
        ends = torch.stack([torch.randperm(side // step + 1, generator=generator)[:2] for _ in range(count)])
        sides.append(ends.sort(dim=1).values * step / side)
    return torch.stack([sides[0][:, 0], sides[1][:, 0], sides[0][:, 1], sides[1][:, 1]], dim=1)


@checked
def random_crops(
    images: Count,
    *,
    generator: torch.Generator,
    size: tuple[Count, Count],
    most: Count = 4,
    scale: tuple[Part, Part] = (0.3, 0.7),
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
) -> Float[Tensor, "b m 4"]:
    """Crops of each image as FarSLIP (arXiv 2511.14901) draws them; what would reach beyond the image is cut.

    Args:
        images: how many.
        generator: of the draws, on the CPU.
        size: height and width of the images in pixels.
        most: crops of each.
        scale: least and largest area, as shares of the image's, drawn evenly.
        ratio: least and largest width over height, in pixels; the logarithm is drawn evenly.

    Raises:
        InputError: the larger number first.
    """
    for name, pair in (("scale", scale), ("ratio", ratio)):
        if pair[0] > pair[1]:
            raise InputError(f"{name}: expected the smaller number first, got {list(pair)}")
    area, aspect, left, top = torch.rand(4, images, most, generator=generator)
    area = scale[0] + area * (scale[1] - scale[0])
    low, high = (math.log(one * size[0] / size[1]) for one in ratio)
    aspect = (low + aspect * (high - low)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = left * (1 - width), top * (1 - height)
    return torch.stack([left, top, left + width, top + height], dim=2).clamp(0, 1)


@checked
def jittered(
    boxes: Float[Tensor, "*places 4"], *, share: Share, noise: Float[Tensor, "*places 4"]
) -> Float[Tensor, "*places 4"]:
    """Boxes whose four sides are each moved by up to so much of the box's width or height, within the image.

    Args:
        boxes: none inverted; those without area stay.
        share: below one half no box can vanish.
        noise: drawn evenly from 0 to 1, on the boxes' device.

    Raises:
        InputError: noise of another shape.
    """
    if noise.shape != boxes.shape:
        raise InputError(f"noise: expected {tuple(boxes.shape)}, as the boxes, got {tuple(noise.shape)}")
    moves = (2 * noise - 1).to(boxes) * share
    sides = boxes[..., 2:] - boxes[..., :2]
    found = (boxes + moves * torch.cat([sides, sides], dim=-1)).clamp(0, 1)
    return torch.where((found[..., 2:] > found[..., :2]).all(dim=-1, keepdim=True), found, boxes)


@checked
def enlarged(boxes: Float[Tensor, "*places 4"], *, factor: Annotated[float, Ge(1)] = 1.5) -> Float[Tensor, "*places 4"]:
    """Boxes of so many times the width and height around the same centre, within the image."""
    more = (boxes[..., 2:] - boxes[..., :2]) * (factor - 1) / 2
    return torch.cat([boxes[..., :2] - more, boxes[..., 2:] + more], dim=-1).clamp(0, 1)


@checked
def sized_boxes(
    boxes: Float[Tensor, "b m 4"],
    *,
    valid: Bool[Tensor, "b m"],
    size: tuple[Count, Count],
    least: Positive = 8.0,
    most: Positive = 1024.0,
) -> Proposals:
    """Boxes with the area of a square of ``least`` to ``most`` pixels a side; the others are no longer valid.

    An image that is left with none gets one at its top left, a quarter as wide and as high, as in CLIPSelf's release.

    Args:
        boxes: of images.
        valid: which places hold one.
        size: height and width of the images in pixels.
        least: pixels of the smallest square's side.
        most: of the largest's.
    """
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) * size[0] * size[1]
    kept = valid & (area >= least**2) & (area <= most**2)
    none = ~kept.any(dim=1)
    first = torch.zeros_like(kept)
    first[:, 0] = none
    corner = boxes.new_tensor([0.0, 0.0, 0.25, 0.25])
    kept = kept | first
    return torch.where(first[..., None], corner, boxes) * kept[..., None], kept


@checked
def cut_regions(
    images: Tensor, boxes: Float[Tensor, "b m 4"], *, valid: Bool[Tensor, "b m"], size: tuple[Count, Count]
) -> Tensor:
    """What the valid boxes show, resized: a new pixel is the mean of those under it, or linear between the nearest.

    Args:
        images: (b, 3, h, w) uint8 pixels or floats.
        boxes: inside the images.
        valid: which places hold one, n in all.
        size: height and width in pixels of what is cut out.

    Returns:
        (n, 3, height, width) of the images' kind, image by image.

    Raises:
        InputError: shapes that do not fit.
    """
    if images.ndim != 4 or boxes.shape != (*valid.shape, 4) or len(images) != len(boxes):
        got = f"{tuple(images.shape)}, {tuple(boxes.shape)} and {tuple(valid.shape)}"
        raise InputError(f"expected images (b, 3, h, w), boxes (b, m, 4) and valid (b, m), got {got}")
    height, width = images.shape[2:]
    whole = images.dtype if images.is_floating_point() else torch.float32
    with torch.autocast(images.device.type, enabled=False):
        pixels = images.to(torch.promote_types(whole, torch.float32))
        rows = torch.arange(len(images), device=images.device)[:, None].expand_as(valid)[valid]
        corners = (boxes[valid] * boxes.new_tensor([width, height, width, height])).to(pixels)
        found = roi_align(pixels, torch.cat([rows[:, None].to(pixels), corners], dim=1), size, aligned=True)
    return found if images.is_floating_point() else found.round().clamp(0, 255).to(images.dtype)
