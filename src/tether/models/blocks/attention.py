"""Attention cores: queries, keys and values in, one output for each query out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 512
"""On a CPU in bfloat16, below this many keys, plain matrix products beat torch's fused attention, whose backward is
slow there (2 to 4 times at 24 to 65 tokens); everywhere else the fused one wins."""


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention (arXiv 1706.03762, section 3.2.1).

    Args:
        q: (b, h, m, d) queries; the m queries are the last m positions when ``causal``.
        k: (b, h, n, d) keys.
        v: (b, h, n, d) values.
        causal: whether a query sees only keys up to its own position.
        bias: added to the scores before the softmax, broadcastable to (b, h, m, n); minus infinity hides a key.

    Returns:
        (b, h, m, d).
    """
    m, n = q.shape[-2], k.shape[-2]
    if causal and m > 1:
        if bias is None and m == n and not _by_matmul(q, n):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = torch.full((m, n), -math.inf, dtype=q.dtype, device=q.device).triu(n - m + 1)
        bias = hidden if bias is None else bias + hidden
    if bias is not None:
        bias = bias.to(q.dtype)
    if _by_matmul(q, n):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _by_matmul(q: Tensor, keys: int) -> bool:
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and keys < SHORT


AttentionCore = Callable[..., Tensor]

ATTENTION: Mapping[str, AttentionCore] = {"softmax": softmax_attention}
"""Attention cores by name; each has the signature of ``softmax_attention``."""


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first * cos - second * sin, second * cos + first * sin


def no_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Leave queries and keys as they are."""
    return x


def half_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Rotary positions on pairs (i, i + d/2) of the last axis (arXiv 2104.09864); position is (n,)."""
    cos, sin = _angles(x, position, theta)
    first, second = x.chunk(2, dim=-1)
    return torch.cat(_rotate(x, cos, sin, first, second), dim=-1)


def interleaved_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Rotary positions on pairs (2i, 2i + 1) of the last axis (arXiv 2104.09864); position is (n,)."""
    cos, sin = _angles(x, position, theta)
    return torch.stack(_rotate(x, cos, sin, x[..., 0::2], x[..., 1::2]), dim=-1).flatten(-2)


def _angles(x: Tensor, position: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    rate = theta ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = position.double()[:, None] * rate
    return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


ROPE: Mapping[str, Callable[..., Tensor]] = {"none": no_rope, "half": half_rope, "interleaved": interleaved_rope}
"""Rotary position schemes by name: ``(x (..., n, d), *, position (n,), theta) -> x``."""
