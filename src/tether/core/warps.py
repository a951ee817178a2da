"""Maps and images seen in perspective: sampling grids of homographies, and what of the view lies inside."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, NonNegative, checked


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


def warped(image: Float[Tensor, "b c h w"], grid: Float[Tensor, "b r s 2"]) -> Float[Tensor, "b c r s"]:
    """What a view shows: between pixels linear, beyond the image mirrored."""
    return F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="reflection", align_corners=True)


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
