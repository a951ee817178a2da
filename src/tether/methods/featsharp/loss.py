"""How well a coarse map of a view is predicted, with weights for places, and how rough a fine one is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked


@checked
def seam_weights(*, size: tuple[Count, Count], factor: Count) -> Float[Tensor, "1 1 R S"]:
    """2 on both sides of every seam of ``factor`` x ``factor`` tiles, else 1, divided by the mean.

    Source: FeatSharp (arXiv 2502.16025).

    Args:
        size: rows and columns of the map, multiples of ``factor``.
        factor: tiles along a side.

    Example:
        >>> from tether.methods.featsharp.loss import seam_weights
        >>> (seam_weights(size=(1, 6), factor=1)).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if any(side % factor for side in size):
        raise InputError(f"size: expected multiples of {factor}, got {size}")
    found = torch.ones(1, 1, *size)
    for tile in range(1, factor):
        row, column = size[0] // factor * tile, size[1] // factor * tile
        found[..., row - 1 : row + 1, :] = 2
        found[..., column - 1 : column + 1] = 2
    return found / found.mean()


def map_error(
    predicted: Float[Tensor, "b c r s"],
    target: Float[Tensor, "b c r s"],
    *,
    valid: Float[Tensor, "b 1 r s"],
    weights: Float[Tensor, "b 1 r s"] | None = None,
) -> Float[Tensor, ""]:
    """The mean squared error over valid places.

    The sum over valid places is divided by their number, or by half of all where fewer are valid, so that a view which
    shows little of its image counts for little.

    Args:
        predicted: of the views.
        target: what the model says of the views.
        valid: 1 where a view shows its image.
        weights: of the places; None is 1.

    Raises:
        InputError: shapes that do not fit.
    """
    places = (len(target), 1, *target.shape[2:])
    for name, one, wanted in (("predicted", predicted, target.shape), ("valid", valid, places)):
        if tuple(one.shape) != tuple(wanted):
            raise InputError(f"{name}: expected {tuple(wanted)}, got {tuple(one.shape)}")
    error = (predicted - target).square().mean(dim=1, keepdim=True) * valid
    return (error if weights is None else error * weights).sum() / valid.sum().clamp_min(valid.numel() / 2)


def total_variation(
    maps: Float[Tensor, "b c r s"], *, valid: Float[Tensor, "b 1 r s"] | None = None
) -> Float[Tensor, ""]:
    """How much neighbours differ, by the smooth L1 loss: the means over pairs along rows and along columns, summed.

    Args:
        maps: any.
        valid: pairs of places with 1 count; None counts all.
    """
    valid = maps.new_ones(len(maps), 1, *maps.shape[2:]) if valid is None else valid.to(maps)
    total = maps.new_zeros(())
    for axis in (2, 3):
        side = maps.shape[axis] - 1
        first, second = (maps.narrow(axis, start, side) for start in (0, 1))
        both = valid.narrow(axis, 0, side) * valid.narrow(axis, 1, side)
        apart = F.smooth_l1_loss(first, second, reduction="none") * both
        total = total + apart.sum() / (both.sum() * maps.shape[1]).clamp_min(1)
    return total


def squared_variation(maps: Float[Tensor, "b c r s"]) -> Float[Tensor, ""]:
    """The squares of all differences of neighbours, over the number of values: FeatUp's term."""
    down, right = maps.diff(dim=2), maps.diff(dim=3)
    return (down.square().sum() + right.square().sum()) / maps.numel()
