"""Attention cores: queries, keys and values in, one output for each query out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.models.towers.blocks.linear_attention import KERNELS, linear_attention, linear_weights
from tether.models.towers.blocks.rope import Turn

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


def softmax_weights(q: Tensor, k: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """(b, h, m, n) weights of ``softmax_attention``, in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) @ k.to(wide).transpose(-2, -1)) * q.shape[-1] ** -0.5
    return (scores if bias is None else scores + bias.to(wide)).softmax(-1)


def _by_matmul(q: Tensor, keys: int) -> bool:
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and keys < SHORT


@dataclass(frozen=True, slots=True)
class AttentionCore:
    """One way to attend.

    Attributes:
        attend: what a call does; see ``softmax_attention`` for the arguments.
        weights: ``(q, k, *, bias)``, (b, h, m, n) adding up to 1 over n, for looking inside.
        turns: what rotary positions turn: the ``inputs``, before the core is called, or the ``features`` that the core
            makes of them, in which case it takes ``turn``.
        reads_length: whether the length of a query is what the method is about, so that normalising it would undo it.
    """

    attend: Callable[..., Tensor]
    weights: Callable[..., Tensor]
    turns: Literal["inputs", "features"] = "inputs"
    reads_length: bool = False

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, bias: Tensor | None, turn: Turn | None = None
    ) -> Tensor:
        """(b, h, m, d) queries over (b, h, n, d) keys and values to (b, h, m, d)."""
        if turn is None:
            return self.attend(q, k, v, causal=causal, bias=bias)
        return self.attend(q, k, v, causal=causal, bias=bias, turn=turn)


def _linear(kernel: str, *, reads_length: bool = False) -> AttentionCore:
    return AttentionCore(
        functools.partial(linear_attention, kernel=kernel),
        functools.partial(linear_weights, kernel=kernel),
        turns="features",
        reads_length=reads_length,
    )


ATTENTION: Mapping[str, AttentionCore] = {
    "softmax": AttentionCore(softmax_attention, softmax_weights),
    **{kernel: _linear(kernel, reads_length=kernel == "nala") for kernel in KERNELS},
}
"""Attention cores by name."""
