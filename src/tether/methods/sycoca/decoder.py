"""A small text decoder that tells a caption from an embedding, or from an image's patches."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.methods.sycoca.cross_decoder import decoder_layers
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.layers import Linear
from tether.models.towers.blocks.options import BlockConfig
from tether.models.towers.tower import initialise_block_

_AT_ONCE = 1024  # tokens whose logits are held at once, for a vocabulary is large


class CausalDecoder(nn.Module):
    """A causal transformer over a caption's tokens; its first token is an embedding, or its blocks look at patches.

    Attributes:
        look: what it tells the caption from.
    """

    @checked
    def __init__(
        self,
        *,
        width: Count = 128,
        layers: Count = 2,
        heads: Count = 4,
        look: Literal["prefix", "tokens"] = "prefix",
        dim: int,
        vocabulary: int,
        context: int,
        generator: torch.Generator,
    ) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            width: channels of the token stream.
            layers: number of blocks.
            heads: attention heads; must divide the width.
            look: ``prefix``, an embedding as the first token; or ``tokens``, of an image, which every block attends to
                after it attended to the caption, as CoCa's does (arXiv 2205.01917).
            dim: of the embeddings.
            vocabulary: number of token ids.
            context: longest text in tokens.
            generator: of the weights.
        """
        super().__init__()
        self.look: Literal["prefix", "tokens"] = look
        self.prefix = Linear(dim, width, bias=False)
        self.token = nn.Parameter(torch.empty(vocabulary, width))
        self.position = nn.Parameter(torch.empty(context, width))
        blocks = [] if look == "tokens" else range(layers)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads=heads, hidden=4 * width, config=BlockConfig()) for _ in blocks
        )
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.prefix.weight, std=dim**-0.5, generator=generator)
        nn.init.normal_(self.token, std=0.02, generator=generator)
        nn.init.normal_(self.position, std=0.01, generator=generator)
        for block in self.blocks:
            initialise_block_(block, layers=layers, generator=generator)
        if look == "tokens":
            self.blocks = decoder_layers(layers, width=width, heads=heads, generator=generator)

    def forward(
        self, embedding: Float[Tensor, "b d"] | Float[Tensor, "b k d"], text: Int[Tensor, "b l"]
    ) -> Float[Tensor, ""]:
        """Sum over all tokens after the first of their negative log-likelihood in nats; 0 is padding.

        Args:
            embedding: what is told: rows of any length, and of ``look: tokens`` k of them for each text.
            text: token ids as the tokenizer gives them.
        """
        told = F.embedding(text[:, :-1], self.token) + self.position[: text.shape[1] - 1]
        if embedding.ndim != (3 if self.look == "tokens" else 2):
            raise InputError(
                f"look: {self.look}: expected (b, {'k, ' * (self.look == 'tokens')}d), got {tuple(embedding.shape)}"
            )
        if self.look == "tokens":
            x = self.norm(self._looked(told, self.prefix(embedding).to(told.dtype)))
        else:
            x = torch.cat([self.prefix(embedding)[:, None].to(told.dtype), told], dim=1)
            for block in self.blocks:
                x = block(x, causal=True)
            x = self.norm(x)[:, 1:]
        rows, wanted = x.flatten(0, 1), text[:, 1:].flatten()
        parts = [
            checkpoint(self._surprise, *part, use_reentrant=False)
            for part in zip(rows.split(_AT_ONCE), wanted.split(_AT_ONCE), strict=True)
        ]
        return torch.stack(parts).sum()

    def _looked(self, x: Tensor, memory: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for block in self.blocks:
            x = block(x, memory, tgt_mask=later)
        return x

    def _surprise(self, rows: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy((rows @ self.token.T).float(), wanted, ignore_index=0, reduction="sum")
