"""A decoder that reads a word's characters from an image in any order."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.towers.config import Layers
from tether.tasks.read.charset import Charset

_SPREAD = 0.02  # of the weights at the start, but those of queries, keys and values


class PermutedDecoder(nn.Module):
    """Characters of a word from a memory, each from those that it may see, in whatever order.

    A *query* for each place, a learnt vector, looks at the *context*, the characters known so far with the vectors of
    their places, then at the memory. The context itself changes only between layers.

    Source: PARSeq's decoder (arXiv 2207.06966) as CLIP4STR uses it (arXiv 2305.14014), whose settings are the defaults.

    Attributes:
        charset: its characters.
        positions: (1, max_length + 1, d) the vectors of the places, the end's among them.

    Example:
        >>> import torch
        >>> from tether.tasks.read import Charset, PermutedDecoder, permutation_masks, permutations
        >>> decoder = PermutedDecoder(16, heads=2, charset=Charset("abc"), max_length=4).eval()
        >>> ids = decoder.charset.encode(["cab", "b"], longest=4)
        >>> masks = permutation_masks(permutations(3)[1])
        >>> decoder(ids[:, :-1], torch.randn(2, 9, 16), query_mask=masks.query).shape
        torch.Size([2, 4, 4])
    """

    undecayed = ("positions", "characters")

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        heads: Count = 8,
        depth: Layers = 1,
        charset: Charset,
        max_length: Count = 25,
        mlp_ratio: Count = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            dim: of memory and stream; a number that ``heads`` divides.
            heads: of each attention.
            depth: layers.
            charset: what a word is made of.
            max_length: most characters of a word.
            mlp_ratio: width of the feed-forward networks over ``dim``.
            dropout: in training mode, of context and queries, in attention, feed-forward network and before additions.
            generator: of the weights; None is the global one.

        Raises:
            InputError: heads that do not divide the width.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a number that divides dim = {dim}, got {heads}")
        self.charset, self.max_length = charset, max_length
        self.positions = nn.Parameter(torch.empty(1, max_length + 1, dim))
        self.characters = nn.Parameter(torch.empty(charset.classes + 2, dim))
        self.layers = nn.ModuleList(_TwoStreams(dim, heads, mlp_ratio * dim, dropout) for _ in range(depth))
        self.dropout, self.norm, self.head = nn.Dropout(dropout), nn.LayerNorm(dim), nn.Linear(dim, charset.classes)
        for name, weight in self.named_parameters():
            if name.endswith("in_proj_weight"):
                nn.init.xavier_uniform_(weight, generator=generator)
            elif weight.ndim > 1:
                nn.init.trunc_normal_(weight, std=_SPREAD, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(
        self,
        ids: Int[Tensor, "b l"],
        memory: Float[Tensor, "b n d"],
        *,
        places: slice | None = None,
        query_mask: Bool[Tensor, "q l"] | None = None,
        content_mask: Bool[Tensor, "l l"] | None = None,
        token_mask: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """Logits of the end and of each character, at the places that are asked for.

        Args:
            ids: the context: the begin, and the characters known so far or of all the word.
            memory: what is read, at least one row an image.
            places: that are asked for, 0 is the first character's; None is as many as ``ids``, from the first.
            query_mask: what each place sees of ``ids``, True for what is seen; None is all.
            content_mask: what each of ``ids`` sees of them; only decoders of several layers ask for it.
            token_mask: which of ``ids`` are there, the begin always is.

        Raises:
            InputError: more characters than the longest word has, or a memory of another width or batch.
        """
        length, width = ids.shape[1], self.positions.shape[2]
        if not 1 <= length <= self.max_length + 1:
            raise InputError(f"ids: expected 1 to {self.max_length + 1} a row, got {length}")
        if memory.ndim != 3 or memory.shape[0] != len(ids) or not memory.shape[1] or memory.shape[2] != width:
            raise InputError(f"memory: expected ({len(ids)}, n, {width}) with n above 0, got {tuple(memory.shape)}")
        begin, rest = (width**0.5 * F.embedding(ids, self.characters)).split([1, length - 1], dim=1)
        content = self.dropout(torch.cat([begin, self.positions[:, : length - 1] + rest], dim=1))
        query = self.positions[:, slice(length) if places is None else places].expand(len(ids), -1, -1)
        query = self.dropout(query)
        memory = memory.to(query.dtype)
        absent = None if token_mask is None else ~token_mask
        for index, layer in enumerate(self.layers):
            known = content
            if index + 1 < len(self.layers):
                content = layer(content, memory, seen=content_mask, absent=absent)
            query = layer(query, memory, context=known, seen=query_mask, absent=absent)
        return self.head(self.norm(query))


class _TwoStreams(nn.TransformerDecoderLayer):
    """Torch's layer, first over a context, or over ``x`` itself, then over the memory; ``norm1`` is of queries."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__(dim, heads, inner, dropout, activation="gelu", batch_first=True, norm_first=True)
        self.norm_context = nn.LayerNorm(dim)

    def forward(  # pyrefly: ignore  # other arguments than torch's
        self,
        x: Tensor,
        memory: Tensor,
        *,
        context: Tensor | None = None,
        seen: Tensor | None,
        absent: Tensor | None,
    ) -> Tensor:
        given = self.norm_context(x if context is None else context)
        asks = given if context is None else self.norm1(x)
        blocked = None if seen is None else ~seen
        read = self.self_attn(asks, given, given, attn_mask=blocked, key_padding_mask=absent, need_weights=False)
        x = x + self.dropout1(read[0])
        x = x + self.dropout2(self.multihead_attn(self.norm2(x), memory, memory, need_weights=False)[0])
        inner = self.linear2(self.dropout(F.gelu(self.linear1(self.norm3(x)))))
        return x + self.dropout3(inner)
