"""Cross-entropy of rows whose own entry is not the product with the key at its place, but a similarity given beside."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def products(queries: Float[Tensor, "b d"], keys: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    """``queries @ keys.T`` in the rows' own precision, whatever the autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ keys.T


def own_places(rows: int, *, keys: int, offset: int, device: torch.device) -> Bool[Tensor, "b n"]:
    """True where column ``offset + i`` meets row i."""
    place = torch.arange(offset, offset + rows, device=device)
    return place[:, None] == torch.arange(keys, device=device)


def replaced_cross_entropy(
    logits: Float[Tensor, "b n"],
    own: Float[Tensor, " b"],
    *,
    offset: int,
    left_out: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, " b"]:
    """``log sum exp`` of each row with ``own`` at column ``offset + i``, minus ``own``; never below 0.

    Args:
        logits: what stands at a row's own column does not matter and gets no gradient.
        own: the logit of each row's positive.
        offset: column of row 0's positive.
        left_out: True where a key is no candidate; a row's own always is one.
    """
    mine = own_places(len(logits), keys=logits.shape[1], offset=offset, device=logits.device)
    if left_out is not None:
        logits = logits.masked_fill(left_out, -torch.inf)
    whole = torch.where(mine, own[:, None], logits)
    return torch.logsumexp(whole, dim=1) - own
