"""How alike the patches of an image are, and the mean of what belongs together."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

Cosine = Annotated[float, Ge(-1), Le(1)]
EPS = 1e-6
AT_ONCE = 2**24
"""Numbers of an affinity that are held at once."""


@checked
def patch_affinity(patches: Float[Tensor, "b n c"], *, threshold: Cosine | None = None) -> Float[Tensor, "b n n"]:
    """The cosine of every two patches of an image, 0 where it is below the threshold.

    Source: CLIP-DINOiser (arXiv 2312.12359), equation 2, whose patches are DINO's values or what a head gives for them,
    and whose threshold is 0.2.

    Args:
        patches: of any length; a row of zeros is like nothing.
        threshold: None keeps all, for a loss.

    Raises:
        InputError: patches of another shape.

    Example:
        >>> import torch
        >>> from tether.methods.clip_dinoiser.patch_affinity import patch_affinity
        >>> patch_affinity(torch.tensor([[[1.0, 0.0], [3.0, 0.0], [-1.0, 5.0]]]), threshold=0.2)
        tensor([[[1., 1., 0.],
                 [1., 1., 0.],
                 [0., 0., 1.]]])
    """
    if patches.ndim != 3:
        raise InputError(f"patches: expected (b, n, c), got {tuple(patches.shape)}")
    unit = F.normalize(patches, dim=2)
    found = unit @ unit.transpose(1, 2)
    return found if threshold is None else found.masked_fill(found < threshold, 0)


def pool_map(values: Float[Tensor, "b d r c"], affinity: Float[Tensor, "b n R C"]) -> Float[Tensor, "b d R C"]:
    """Each patch's mean of all patches, weighted by its row of the affinity; a patch like nothing keeps its own.

    Args:
        values: what is averaged, not normalised; enlarged or shrunk bilinearly where the affinity has another grid.
        affinity: of patch n, row by row, with the patch in row i and column j.

    Raises:
        InputError: an affinity of another batch, or whose rows are not as many as its places.

    Example:
        >>> import torch
        >>> from tether.methods.clip_dinoiser.patch_affinity import pool_map
        >>> pool_map(torch.tensor([[[[1.0, 3.0]]]]), torch.ones(1, 2, 1, 2)).round(decimals=3)
        tensor([[[[2., 2.]]]])
    """
    if values.ndim != 4 or affinity.ndim != 4 or len(values) != len(affinity):
        raise InputError(
            f"affinity: expected (b, n, R, C) for values (b, d, r, c), got {tuple(affinity.shape)} for "
            f"{tuple(values.shape)}"
        )
    grid = (affinity.shape[2], affinity.shape[3])
    if affinity.shape[1] != grid[0] * grid[1]:
        raise InputError(
            f"affinity: expected {grid[0] * grid[1]} rows for {grid[0]} x {grid[1]} patches, got {affinity.shape[1]}"
        )
    if tuple(values.shape[2:]) != grid:
        values = F.interpolate(values, grid, mode="bilinear", align_corners=False)
    rows = values.flatten(2).transpose(1, 2)
    return _weighted(rows, affinity.flatten(2), own=rows).transpose(1, 2).unflatten(2, grid)


@checked
def pool_alike(
    values: Float[Tensor, "b n d"], keys: Float[Tensor, "b n c"], *, threshold: Cosine, at_once: Count = AT_ONCE
) -> Float[Tensor, "b n d"]:
    """``pool_map`` by the cosines of keys, a few rows at a time, so that memory grows with n and not with its square.

    Args:
        values: what is averaged.
        keys: of the same patches.
        threshold: cosines below it count as 0.
        at_once: numbers of the affinity that are held, at least one row of each image.

    Raises:
        InputError: keys of other patches.

    Example:
        >>> import torch
        >>> from tether.methods.clip_dinoiser.patch_affinity import patch_affinity, pool_alike, pool_map
        >>> values, keys = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
        >>> whole = pool_map(values[..., None], patch_affinity(keys.mT, threshold=0.2)[..., None])
        >>> few = pool_alike(values.mT, keys.mT, threshold=0.2, at_once=50)
        >>> torch.allclose(few.mT, whole[..., 0], atol=1e-5)
        True
    """
    if values.ndim != 3 or keys.ndim != 3 or values.shape[:2] != keys.shape[:2]:
        raise InputError(
            f"keys: expected (b, n, c) for values (b, n, d), got {tuple(keys.shape)} for {tuple(values.shape)}"
        )
    unit = F.normalize(keys, dim=2)
    step = max(1, at_once // max(1, unit.shape[0] * unit.shape[1]))
    parts = []
    for start in range(0, unit.shape[1], step):
        some = slice(start, start + step)
        affinity = unit[:, some] @ unit.transpose(1, 2)
        affinity = affinity.masked_fill(affinity < threshold, 0).to(values.dtype)
        parts.append(_weighted(values, affinity, own=values[:, some]))
    return torch.cat(parts, dim=1) if parts else values


def _weighted(
    values: Float[Tensor, "b n d"], affinity: Float[Tensor, "b m n"], *, own: Float[Tensor, "b m d"]
) -> Float[Tensor, "b m d"]:
    """The released code adds ``EPS`` to the sums; where there is nothing to average each keeps its own."""
    sums = affinity.sum(dim=2, keepdim=True)
    return (affinity @ values / (sums + EPS)).where(sums.abs() > EPS, own)
