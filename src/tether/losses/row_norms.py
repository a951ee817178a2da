"""Norms of the rows of ``queries @ keys.T`` without that matrix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tether.losses.infonce import tile_rows, widen
from tether.losses.logit_clip import norms_of


def row_norms(queries: Float[Tensor, "b d"], *, keys: Float[Tensor, "n d"], p: float = 2.0) -> Float[Tensor, "b 1"]:
    """p-norm of each query's dot products with all keys, with exact gradients; half precision is widened.

    For p = 2 and more keys than dimensions it is the length of the query under the keys' second moments, which costs
    d/n of a product with all keys. The keys' mean is taken out first: rows that share a direction, as texts do, would
    otherwise lose digits in float32. Other orders look at a tile of rows at a time, and again in the backward.

    Raises:
        InputError: shapes that do not fit.
    """
    queries, keys = widen(queries, keys)
    with torch.autocast(queries.device.type, enabled=False):
        if len(keys) <= keys.shape[1]:  # the matrix is no larger than the rows themselves
            return norms_of(queries @ keys.T, p=p)
        if p == 2:
            return _lengths(queries, keys)
        height = tile_rows(len(queries), len(keys), dtype=queries.dtype, device=queries.device)
        parts = [checkpoint(_tile_norms, part, keys, p, use_reentrant=False) for part in queries.split(height)]
        return torch.cat(parts)


def _lengths(queries: Tensor, keys: Tensor) -> Tensor:
    centre = keys.mean(dim=0)
    spread = keys - centre
    around = ((queries @ (spread.T @ spread)) * queries).sum(dim=1, keepdim=True)
    squares = around.clamp(min=0) + len(keys) * (queries @ centre)[:, None].square()
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


def _tile_norms(queries: Tensor, keys: Tensor, p: float) -> Tensor:
    return norms_of(queries @ keys.T, p=p)
