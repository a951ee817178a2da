"""The attention of diffusers in pieces: what comes before it, what its heads read, and what comes after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "b h n d"]
PLAIN = ("AttnProcessor", "AttnProcessor2_0")
"""Processors of diffusers that compute what ``CrossPieces`` does."""


@dataclass(frozen=True, slots=True)
class CrossPieces:
    """One call of a diffusers ``Attention`` whose queries are of the image; ``PLAIN`` says which processors it is of.

    Attributes:
        attn: the layer.
        states: (b, t, c) of the image, normed.
        before: what is added to the result where the layer has a residual.
    """

    attn: Any
    states: Float[Tensor, "b t c"]
    before: Tensor

    @classmethod
    def of(cls, attn: Any, states: Tensor, temb: Tensor | None) -> CrossPieces:
        """Norm what enters the layer, and lay images (b, c, h, w) out as tokens."""
        before = states
        if attn.spatial_norm is not None:
            states = attn.spatial_norm(states, temb)
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            states = attn.group_norm(states.transpose(1, 2)).transpose(1, 2)
        return cls(attn, states, before)

    def queries(self) -> Heads:
        """Of the image's tokens."""
        return self._normed(self.attn.to_q(self.states), self.attn.norm_q)

    def keys(self, context: Float[Tensor, "b n w"] | None) -> tuple[Tensor, Tensor]:
        """Keys and values of a context, or of the image itself."""
        if context is None:
            context = self.states
        elif self.attn.norm_cross:
            context = self.attn.norm_encoder_hidden_states(context)
        return self._normed(self.attn.to_k(context), self.attn.norm_k), self._normed(self.attn.to_v(context), None)

    def result(self, z: Float[Tensor, "b t c"]) -> Tensor:
        """The layer's result of what its heads gave."""
        out = self.attn.to_out[1](self.attn.to_out[0](z))
        if self.before.ndim == 4:
            out = out.transpose(1, 2).reshape(len(out), -1, *self.before.shape[2:])
        if self.attn.residual_connection:
            out = out + self.before
        return out / self.attn.rescale_output_factor

    def mask(self, mask: Tensor | None, *, length: int) -> Tensor | None:
        """What is added to logits, for each head, from what the layer was given."""
        if mask is None:
            return None
        mask = self.attn.prepare_attention_mask(mask, length, len(self.states))
        return mask.view(len(self.states), self.attn.heads, -1, mask.shape[-1])

    def _normed(self, rows: Tensor, norm: Any) -> Heads:
        heads = rows.unflatten(-1, (self.attn.heads, -1)).transpose(1, 2)
        return heads if norm is None else norm(heads)


def attended(query: Heads, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Float[Tensor, "b t c"]:
    """What attention gives, heads merged, before the output projection."""
    z = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return z.transpose(1, 2).flatten(2).to(query.dtype)


def weights(query: Heads, key: Tensor, mask: Tensor | None = None) -> Float[Tensor, "b h n t"]:
    """What each query takes of each key: the softmax that ``attended`` does not show."""
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (logits if mask is None else logits + mask).softmax(-1)
