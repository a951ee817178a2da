"""The same losses with the whole B x B matrix: what the tiled forms are tested and measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def plain_info_nce(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "n d"],
    *,
    scale: Float[Tensor, ""] | float,
    offset: int = 0,
    query_labels: Int[Tensor, " b"] | None = None,
    key_labels: Int[Tensor, " m"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " b"]:
    """Cross-entropy of each query among all keys, as in ``info_nce``; keys past ``key_labels`` have no label."""
    return cross_entropy_rows(
        scale * queries @ keys.T,
        offset=offset,
        query_labels=query_labels,
        key_labels=key_labels,
        label_smoothing=label_smoothing,
    )


def cross_entropy_rows(
    logits: Float[Tensor, "b n"],
    *,
    offset: int = 0,
    query_labels: Int[Tensor, " b"] | None = None,
    key_labels: Int[Tensor, " m"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " b"]:
    """The same from logits that exist: the target of row i is column ``offset + i``, or all of its label."""
    if query_labels is None or key_labels is None:
        target = torch.arange(offset, offset + len(logits), device=logits.device)
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing, reduction="none")
    same = query_labels[:, None] == key_labels[None, :]
    same = F.pad(same, (0, logits.shape[1] - len(key_labels))).to(logits.dtype)
    return F.cross_entropy(
        logits, same / same.sum(dim=1, keepdim=True), label_smoothing=label_smoothing, reduction="none"
    )


def plain_sigmoid(
    left: Float[Tensor, "b d"], right: Float[Tensor, "b d"], *, scale: Tensor | float, bias: Tensor | float
) -> Float[Tensor, " b"]:
    """Sigmoid loss of each left row against all right rows, as ``sigmoid_pairs`` defines it."""
    logits = scale * left @ right.T + bias
    signs = 2 * torch.eye(len(left), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum(dim=1)
