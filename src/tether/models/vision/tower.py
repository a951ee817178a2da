"""A vision transformer with a class token: embed, blocks, readout."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.geometry import GeometryName
from tether.core.types import Features
from tether.models.blocks.block import TransformerBlock
from tether.models.blocks.grid import Grid, GridConv
from tether.models.blocks.layers import NORMS, Linear
from tether.models.blocks.mirror_gate import MirrorGate, tally
from tether.models.blocks.trace import Trace
from tether.models.config import VisionConfig
from tether.models.embedding_scale import point_scale

Want = Literal["pooled", "tokens"]


class VisionTower(nn.Module):
    """Cuts a picture into patches and lets a class token read them (arXiv 2010.11929; CLIP's form, 2103.00020).

    A forward is ``readout(blocks(embed(image)))``; each stage is public. Token 0 is the class token, token 1 + i is
    patch i, row by row from the top left.
    """

    def __init__(self, config: VisionConfig, *, dim: int, geometry: GeometryName = "clip") -> None:
        """Build the layers; weights stay unset until ``initialise_`` or ``load_state_dict``."""
        super().__init__()
        self.config = config
        patches = config.grid[0] * config.grid[1]
        self.patch = Linear(3 * config.patch**2, config.width, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.position = nn.Parameter(torch.empty(patches + 1, config.width))
        first, last = config.blocks[0], config.blocks[-1]
        self.norm_pre = NORMS[first.norm](config.width, eps=first.norm_eps)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, heads=config.heads, hidden=config.hidden, config=block)
            for block in config.blocks
        )
        self.gate = MirrorGate(config.width, depth=config.layers) if config.gate == "mirror" else None
        keep = config.final_layernorm == "keep"
        self.norm_post = NORMS[last.norm](config.width, eps=last.norm_eps) if keep else nn.Identity()
        self.projection = Linear(config.width, dim, bias=False)
        self.point_scale = point_scale(geometry, dim=dim)

    def initialise_(self, generator: torch.Generator) -> None:
        """Draw every weight: normal with CLIP's scales (arXiv 2103.00020, released text tower) on both towers."""
        width, layers = self.config.width, self.config.layers
        scale = width**-0.5
        nn.init.normal_(self.patch.weight, std=(3 * self.config.patch**2) ** -0.5, generator=generator)
        nn.init.normal_(self.class_token, std=scale, generator=generator)
        nn.init.normal_(self.position, std=scale, generator=generator)
        nn.init.normal_(self.projection.weight, std=scale, generator=generator)
        for block in self.blocks:
            initialise_block_(block, layers=layers, generator=generator)
        if self.gate is not None:
            self.gate.initialise_(generator)

    def patches(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b n c"]:
        """Normalised patches as rows (channel, row, column), of which only those in ``keep`` are ever made."""
        side, (rows, columns) = self.config.patch, self.config.grid
        expected = (3, *self.config.image.size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise InputError(f"image: expected (b, {', '.join(map(str, expected))}), got {tuple(image.shape)}")
        cut = image.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
        if keep is None:
            kept = cut.flatten(1, 2)
        else:
            down, across = keep.div(columns, rounding_mode="floor"), keep.remainder(columns)
            kept = cut[torch.arange(len(keep), device=image.device)[:, None], down, across]
        return self.config.image.normalise(kept, dtype=self._dtype(image)).flatten(2)

    def _dtype(self, image: Tensor) -> torch.dtype:
        return self.patch.weight.dtype

    def embed(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b n w"]:
        """Pixels to the stream that enters block 0: the class token, then the patches that are kept."""
        tokens = self.patch(self.patches(image, keep=keep))
        first = (self.class_token + self.position[0]).to(tokens.dtype).expand(len(image), 1, -1)
        where = self.position[1:] if keep is None else self.position[1:][keep]
        return self.norm_pre(torch.cat([first, tokens + where.to(tokens.dtype)], dim=1))

    def readout(self, tokens: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """The final norm, on whichever tokens are given."""
        return self.norm_post(tokens)

    def project(self, tokens: Float[Tensor, "... w"]) -> Float[Tensor, "... d"]:
        """Normed token states into the joint space; the class token's is the picture's embedding."""
        rows = self.projection(tokens)
        return rows if self.point_scale is None else self.point_scale(rows)

    def forward(
        self,
        image: Tensor,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        keep: Int[Tensor, "b k"] | None = None,
        want: Want = "pooled",
        trace: Trace | None = None,
    ) -> Features:
        """See ``Clip.encode_image``."""
        x = self.embed(image, keep=keep)
        bias, seen = None, None
        if mask is not None:
            expected = (len(image), math.prod(self.config.grid))
            if mask.dtype != torch.bool or tuple(mask.shape) != expected:
                raise InputError(f"mask: expected bool {expected}, got {mask.dtype} {tuple(mask.shape)}")
            if keep is not None:
                mask = mask.gather(1, keep)
            seen = torch.cat([mask.new_ones(len(image), 1), mask], dim=1)
            bias = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, -math.inf)[:, None, None]
        grid = Grid(*self.config.grid, before=1, keep=keep, seen=mask)
        last = len(self.blocks) - 1
        gates: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            pool = "first" if index == last and want == "pooled" else "all"
            gate = None if self.gate is None else self.gate.step(index, x)
            if gate is not None:
                gates.append(gate)
            name = f"blocks.{index}"
            x = block(x, causal=False, bias=bias, gate=gate, grid=grid, pool=pool, trace=trace, name=name)
        extra = {"gates": tally(gates, real=seen)} if gates else {}
        x = self.readout(x)
        pooled = self.project(x[:, 0])
        return Features(pooled, extra=extra) if want == "pooled" else Features(pooled, x, seen, extra)


def initialise_block_(block: nn.Module, *, layers: int, generator: torch.Generator, std: float | None = None) -> None:
    """Draw one block's weights; what ends in the stream is smaller the deeper the tower.

    Args:
        block: a ``TransformerBlock``.
        layers: of the whole tower.
        generator: of the draws.
        std: of every matrix, before those that end in the stream are divided by the root of twice the layers; CLIP's
            own scales (arXiv 2103.00020, released code) if None.
    """
    if not isinstance(block, TransformerBlock):
        raise TypeError(f"expected a TransformerBlock, got {type(block).__name__}")
    width = block.proj.out_features
    scale = width**-0.5 if std is None else std
    for conv in block.modules():
        if isinstance(conv, GridConv):
            conv.initialise_(generator)
    for layer, size in (
        (block.qkv, scale),
        *(((block.out_gate, scale),) if block.out_gate is not None else ()),
        (block.proj, scale * (2 * layers) ** -0.5),
        (block.up, (2 * width) ** -0.5 if std is None else std),
        (block.down, scale * (2 * layers) ** -0.5),
    ):
        nn.init.normal_(layer.weight, std=size, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
