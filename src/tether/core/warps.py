"""Maps and images seen in perspective: homographies, their sampling grids, and what of the view lies inside."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, NonNegative, checked

Shares = tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]]
Ratios = tuple[Annotated[float, Ge(0.1), Le(10)], Annotated[float, Ge(0.1), Le(10)]]
_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
_HORIZON = 0.05
"""Least scale of a corner of a view, 1 in the middle: below it lies the horizon."""
_TRIES = 10
"""Draws of a crop before the one in the middle is taken, as torchvision has it."""


def homography_grid(homography: Float[Tensor, "b 3 3"], *, size: tuple[int, int]) -> Float[Tensor, "b h w 2"]:
    """Where each place of a view looks in what is seen: x, y from -1 to 1, the middles of the outer places.

    Args:
        homography: from places of the view to places of what is seen, both from -1 to 1.
        size: rows and columns of the view.

    Raises:
        InputError: other matrices, or a view whose horizon lies inside of it.

    Example:
        >>> import torch
        >>> from tether.core.warps import homography_grid
        >>> homography_grid(torch.eye(3)[None], size=(2, 2)).flatten(0, 2).tolist()
        [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    if homography.shape[1:] != (3, 3):
        raise InputError(f"homography: expected (b, 3, 3), got {tuple(homography.shape)}")
    rows, columns = (torch.linspace(-1, 1, side).to(homography) for side in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    seen = torch.einsum("bij,hwj->bhwi", homography, torch.stack([x, y, torch.ones_like(x)], dim=-1))
    if not (seen[..., 2] > 0).all():  # which NaN is not
        raise InputError("homography: expected one whose horizon lies outside of the view")
    return seen[..., :2] / seen[..., 2:]


def warped(
    image: Float[Tensor, "b c h w"], grid: Float[Tensor, "b r s 2"], *, fill: float | None = None
) -> Float[Tensor, "b c r s"]:
    """What a view shows: between pixels linear, beyond the image mirrored, or of one value where ``fill`` is given."""
    grid = grid.to(image.dtype)
    if fill is None:
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    seen = F.grid_sample(image - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return seen + fill


def inside(grid: Float[Tensor, "b r s 2"]) -> Float[Tensor, "b 1 r s"]:
    """1 where a view shows the image itself, 0 where it is mirrored: the nearest pixel decides."""
    ones = grid.new_ones(len(grid), 1, grid.shape[1], grid.shape[2])
    return F.grid_sample(ones, grid, mode="nearest", padding_mode="zeros", align_corners=True)


@checked
def random_homographies(
    count: Count,
    *,
    generator: torch.Generator,
    degrees: NonNegative = 15.0,
    zoom: NonNegative = 0.3,
    stretch: NonNegative = 0.1,
    shift: NonNegative = 0.2,
    tilt: Decay = 0.1,
) -> Float[Tensor, "count 3 3"]:
    """Views of an image, each setting drawn evenly between minus and plus so much.

    Args:
        count: how many.
        generator: of the draws, on the CPU.
        degrees: of turning.
        zoom: logarithm of how much of the image a side of the view shows.
        stretch: logarithm of width over height, halved.
        shift: of the middle, in halves of the image's sides.
        tilt: of the perspective: by how much of itself the scale changes from the middle to a side.

    Raises:
        InputError: a tilt of one half or more, with which a horizon could lie in view.
    """
    if tilt >= 0.5:
        raise InputError(f"tilt: expected less than 0.5, got {tilt}")
    turn, scale, wide, across, down, right, below = 2 * torch.rand(7, count, generator=generator) - 1
    turn, scale = turn * math.radians(degrees), scale * zoom
    made = torch.eye(3).repeat(count, 1, 1)
    x, y = (scale + wide * stretch).exp(), (scale - wide * stretch).exp()
    made[:, 0, 0], made[:, 0, 1] = x * turn.cos(), -y * turn.sin()
    made[:, 1, 0], made[:, 1, 1] = x * turn.sin(), y * turn.cos()
    made[:, 0, 2], made[:, 1, 2] = across * shift, down * shift
    made[:, 2, 0], made[:, 2, 1] = right * tilt, below * tilt
    return made


def homography_between(
    start: Float[Tensor, "b four two"], end: Float[Tensor, "b four two"]
) -> Float[Tensor, "b three three"]:
    """The homography that takes four points of a view to four points of what is seen; its last entry is 1.

    Args:
        start: (b, 4, 2) x, y in the view.
        end: (b, 4, 2) where each of them looks.

    Raises:
        InputError: other shapes, or three points on one line.

    Example:
        >>> import torch
        >>> from tether.core.warps import homography_between
        >>> square = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
        >>> homography_between(square, square * 0.5)[0].diagonal().tolist()
        [0.5, 0.5, 1.0]
    """
    if start.shape != end.shape or start.shape[1:] != (4, 2):
        got = f"{tuple(start.shape)} and {tuple(end.shape)}"
        raise InputError(f"start, end: expected (b, 4, 2) points in both, got {got}")
    x, y = start.double().unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = []
    for axis, there in enumerate(end.double().unbind(-1)):
        own = [x, y, one] if axis == 0 else [zero] * 3
        other = [zero] * 3 if axis == 0 else [x, y, one]
        rows.append(torch.stack([*own, *other, -x * there, -y * there], dim=-1))
    wanted = end.double().transpose(1, 2).flatten(1)
    found, bad = torch.linalg.solve_ex(torch.cat(rows, dim=1), wanted[..., None])
    if bool(bad.any()) or not bool(found.isfinite().all()):
        raise InputError("start, end: expected four points of which no three lie on one line")
    return F.pad(found[..., 0], (0, 1), value=1.0).unflatten(1, (3, 3)).to(start.dtype)


@checked
def random_perspectives(
    count: Count, *, generator: torch.Generator, distortion: Annotated[float, Ge(0), Le(0.5)] = 0.5
) -> Float[Tensor, "count three three"]:
    """Views whose corners show what lay inside the image: torchvision's ``RandomPerspective``, in shares of the side.

    Each corner of the image is moved inwards, by up to half of ``distortion`` of each side, and what lies beyond the
    image comes into view. torchvision draws whole pixels and, rarely, a view
    whose horizon lies inside of it or near, which is drawn anew here.

    Args:
        count: how many.
        generator: of the draws, on the CPU.
        distortion: 0 leaves the image as it is; at most one half.
    """
    corners = torch.tensor(_CORNERS)
    made = torch.empty(count, 3, 3)
    left = torch.arange(count)
    while len(left):
        moved = corners * (1 - distortion * torch.rand(len(left), 4, 2, generator=generator))
        made[left] = homography_between(moved, corners.expand(len(left), 4, 2))
        ends = F.pad(corners, (0, 1), value=1.0) @ made[left, 2].T
        left = left[ends.amin(dim=0) < _HORIZON]
    return made


@checked
def random_crops(
    count: Count, *, generator: torch.Generator, scale: Shares = (0.7, 0.9), ratio: Ratios = (3 / 4, 4 / 3)
) -> Float[Tensor, "count three three"]:
    """Views of a part of a square image: torchvision's ``RandomResizedCrop``, in shares of the side.

    Args:
        count: how many.
        generator: of the draws, on the CPU.
        scale: least and greatest share of the area.
        ratio: least and greatest width over height, drawn evenly in logarithms.

    Raises:
        InputError: a least that is above its greatest.
    """
    for name, (least, most) in (("scale", scale), ("ratio", ratio)):
        if least > most:
            raise InputError(f"{name}: expected the least first, got {(least, most)}")
    made = torch.eye(3).repeat(count, 1, 1)
    for view in made:
        wide = high = 1.0
        for _ in range(_TRIES):
            area, shape = torch.rand(2, generator=generator).tolist()
            area = scale[0] + (scale[1] - scale[0]) * area
            shape = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape)
            wide, high = math.sqrt(area * shape), math.sqrt(area / shape)
            if wide <= 1 and high <= 1:
                break
        else:
            wide, high = min(1.0, ratio[1]), min(1.0, 1 / ratio[0])
        across, down = torch.rand(2, generator=generator).tolist()
        view[0, 0], view[1, 1] = wide, high
        view[0, 2], view[1, 2] = (1 - wide) * (2 * across - 1), (1 - high) * (2 * down - 1)
    return made
