"""Attention to two images at once whose value is the difference of what each contributes (arXiv 2412.06760)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked


class RankAwareAttention(nn.Module):
    """For every ordered pair of images, what the rank tokens see in the first less what they see in the second.

    The keys of a pair are the tokens of both images, under one softmax: ``A = softmax(q [kv_i; kv_j]^T / sqrt(d))`` and
    the value ``A_i kv_i - A_j kv_j``, with ``q = LN(W_q r)`` and one ``kv = LN(W_kv x)`` as key and value.

    Each image is attended to once, and not once a pair: with ``m_i`` the mean of an image's values under its own
    softmax and ``l_i`` the log of that softmax's sum, it gives ``s_ij m_i`` beside image j, ``s_ij = sigmoid(l_i -
    l_j)``, and the value of the pair is ``s_ij m_i - s_ji m_j``. It is the same number without n x n x 2p weights, and
    pair (j, i) is (i, j) negated before the last layer's bias, so what is given is computed once for both.

    Source: arXiv 2412.06760, section 3.2, and its released clip_model_adapter.py (``MultiHeadRankawareAttentionV2``).

    Example:
        >>> import torch
        >>> from tether.models.heads.rank_attention import RankAwareAttention
        >>> attention = RankAwareAttention(16, heads=4)
        >>> values = attention(torch.randn(2, 16), torch.randn(3, 5, 16))  # 2 rank tokens, 3 images of 5 tokens
        >>> values.shape, bool(torch.allclose(values[1] + values[3], 2 * attention.out_proj.bias, atol=1e-6))
        (torch.Size([9, 2, 16]), True)
    """

    @checked
    def __init__(self, dim: Count, *, heads: Count = 8) -> None:
        """Draw the weights.

        Args:
            dim: of all tokens.
            heads: must divide it.

        Raises:
            InputError: heads that do not divide the width.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a divisor of dim={dim}, got {heads}")
        self.heads = heads
        self.ln_q, self.ln_kv = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q_proj, self.kv_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, rank_tokens: Float[Tensor, "q d"], images: Float[Tensor, "n p d"]) -> Float[Tensor, "pairs q d"]:
        """The n * n pairs; row ``i * n + j`` has image i first."""
        mean, share = self._each(rank_tokens, images)
        given = share[..., None] * mean[:, None]
        return self.out_proj((given - given.transpose(0, 1)).transpose(2, 3).flatten(3).flatten(0, 1))

    def summed(self, rank_tokens: Float[Tensor, "q d"], images: Float[Tensor, "n p d"]) -> Float[Tensor, "pairs d"]:
        """The sum over the rank tokens of the same, without a row for each of them."""
        mean, share = self._each(rank_tokens, images)
        given = (share.transpose(1, 2) @ mean).transpose(1, 2)  # (n, n, heads, e): image i's, beside image j
        value = F.linear((given - given.transpose(0, 1)).flatten(2).flatten(0, 1), self.out_proj.weight)
        return value + len(rank_tokens) * self.out_proj.bias

    def weights(self, rank_tokens: Float[Tensor, "q d"], images: Float[Tensor, "n p d"]) -> Float[Tensor, "k h q w"]:
        """The attention itself, (n * n, heads, q, 2 p): both images' tokens in each row, the first image's first."""
        logits = self._logits(rank_tokens, self._keys(images))
        own, share = logits.softmax(dim=-1), _shares(logits)[..., None]
        return torch.cat([share * own[:, None], share.transpose(0, 1) * own[None]], dim=-1).flatten(0, 1)

    def _each(self, rank_tokens: Tensor, images: Tensor) -> tuple[Float[Tensor, "n h q e"], Float[Tensor, "n n h q"]]:
        """Each image's values under its own softmax, and its share of the softmax beside each other image."""
        keys = self._keys(images)
        logits = self._logits(rank_tokens, keys)
        return logits.softmax(dim=-1) @ keys, _shares(logits)

    def _logits(self, rank_tokens: Tensor, keys: Float[Tensor, "n h p e"]) -> Float[Tensor, "n h q p"]:
        queries = self._heads(self.ln_q(self.q_proj(rank_tokens)))
        return queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5

    def _keys(self, images: Tensor) -> Float[Tensor, "n h p e"]:
        return self._heads(self.ln_kv(self.kv_proj(images)))

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


def _shares(logits: Float[Tensor, "n h q p"]) -> Float[Tensor, "n n h q"]:
    size = logits.logsumexp(dim=-1)
    return torch.sigmoid(size[:, None] - size[None])
