"""The log of the mean Gaussian potential of pairs of rows: how evenly, or how far from each other, rows lie."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tether.core.gather import LOCAL, Gather

BLOCK_ROWS = 1024
"""Rows whose distances to all others exist at once."""
KEPT_CELLS = 1 << 22
"""Distances that the backward may find ready; of larger tables each block is made again there."""


def uniformity(
    rows: Float[Tensor, "b d"], *, t: float = 2.0, labels: Int[Tensor, " b"] | None = None, gather: Gather = LOCAL
) -> Float[Tensor, ""]:
    """``log mean exp(-t ||x_i - x_j||^2)`` over the distinct pairs of rows of all processes (arXiv 2005.10242, 4.1).

    Every process gets the same value; as with any gathered loss, averaging parameter gradients over processes gives
    the gradient of it. Memory grows with b, not with its square.

    Args:
        rows: of any length; widened to float32 at least, whatever the autocast.
        t: sharpness of the potential (> 0).
        labels: equal for rows that mean the same; such pairs are left out. 0 if no pair is left.
        gather: rows of all processes; there must be at least two.
    """
    return _log_mean(rows, rows, t=t, labels=labels, gather=gather, twice=gather.world == 1)


def cross_uniformity(
    left: Float[Tensor, "b d"],
    right: Float[Tensor, "b d"],
    *,
    t: float = 2.0,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """``log mean exp(-t ||x_i - y_j||^2)`` over all i and j that are no pair (arXiv 2405.18570).

    Args:
        left: of any length; widened to float32 at least, whatever the autocast.
        right: row i is the partner of ``left[i]``.
        t: sharpness of the potential (> 0).
        labels: equal for pairs that mean the same; their members are not held against each other.
        gather: rows of all processes; there must be at least two.
    """
    return _log_mean(left, right, t=t, labels=labels, gather=gather, twice=False)


def _log_mean(left: Tensor, right: Tensor, *, t: float, labels: Tensor | None, gather: Gather, twice: bool) -> Tensor:
    """With ``twice`` the table holds each pair two times, and only its upper half is looked at."""
    wide = torch.promote_types(left.dtype, torch.float32)
    left, others = left.to(wide), gather(right.to(wide))
    every = None if labels is None else gather(labels)
    recompute = torch.is_grad_enabled() and len(left) * len(others) > KEPT_CELLS
    sums, counts = [], []
    for start in range(0, len(left), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        first = gather.rank * len(left) + start
        skip = first if twice else 0
        given = (
            left[part],
            others[skip:],
            None if labels is None else labels[part],
            None if every is None else every[skip:],
            t,
            first - skip,
            twice,
        )
        total, count = checkpoint(_block, *given, use_reentrant=False) if recompute else _block(*given)
        sums.append(total)
        counts.append(count)
    parts, sizes = gather(torch.stack(sums)), gather(torch.stack(counts))
    size = sizes.sum()
    some = size > 0
    # A part without pairs must not reach the sum; without any pair at all the sum is not used, but stays finite.
    total = torch.logsumexp(parts.masked_fill((sizes == 0) & some, -torch.inf), dim=0)
    mean = total - size.clamp_min(1).to(wide).log()
    return torch.where(some, mean, torch.zeros_like(mean))


def _block(
    left: Tensor, right: Tensor, labels: Tensor | None, every: Tensor | None, t: float, first: int, twice: bool
) -> tuple[Tensor, Tensor]:
    """Log of the sum of the potentials of a block of rows, and of how many pairs it is."""
    with torch.autocast(left.device.type, enabled=False):
        squared = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1) - 2 * left @ right.T
    own = torch.arange(first, first + len(left), device=left.device)[:, None]
    other = torch.arange(len(right), device=left.device)
    hidden = other <= own if twice else other == own
    if labels is not None and every is not None:
        hidden = hidden | (labels[:, None] == every)
    count = (~hidden).sum()
    exponent = (-t * squared.clamp_min(0)).masked_fill(hidden & (count > 0), -torch.inf)
    return torch.logsumexp(exponent.flatten(), dim=0), count
