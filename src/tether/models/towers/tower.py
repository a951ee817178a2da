"""What both towers share: the blocks with their gate, the final norm and the way into the joint space."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.geometry import GeometryName
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.grid import GridConv
from tether.models.towers.blocks.layers import NORMS, Linear
from tether.models.towers.blocks.mirror_gate import MirrorGate, tally
from tether.models.towers.blocks.moe import Tallies
from tether.models.towers.blocks.packed_sequences import Pool, pooled
from tether.models.towers.config import TowerConfig
from tether.models.towers.embedding_scale import point_scale

Want = Literal["pooled", "tokens"]


class Tower(nn.Module):
    """A stack of blocks between a stem of its own and a projection."""

    def build_stack_(self, config: TowerConfig, *, dim: int, geometry: GeometryName) -> None:
        """Add the layers after the stem; weights stay unset until ``initialise_stack_`` or ``load_state_dict``."""
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, heads=config.heads, hidden=config.hidden, config=block, moe=moe)
            for block, moe in zip(config.blocks, config.experts, strict=True)
        )
        last = config.blocks[-1]
        self.gate = MirrorGate(config.width, depth=config.layers) if config.gate == "mirror" else None
        keep = config.final_layernorm == "keep"
        self.norm_post = NORMS[last.norm](config.width, eps=last.norm_eps) if keep else nn.Identity()
        self.projection = Linear(config.width, dim, bias=False)
        self.point_scale = point_scale(geometry, dim=dim)

    def initialise_stack_(self, generator: torch.Generator) -> None:
        """Draw the projection, the blocks and the gate, in this order."""
        width = self.projection.in_features
        nn.init.normal_(self.projection.weight, std=width**-0.5, generator=generator)
        for block in self.blocks:
            initialise_block_(block, layers=len(self.blocks), generator=generator)
        if self.gate is not None:
            self.gate.initialise_(generator)

    def run(
        self,
        x: Tensor,
        *,
        pool: Pool,
        bias: Tensor | None = None,
        last_bias: Tensor | None = None,
        real: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The stream after the blocks and the final norm, and the tallies of gates and of experts where there are any.

        Args:
            x: the stream that enters block 0.
            pool: the tokens that the last block computes; experts there see all, as in the other blocks.
            bias: of the scores in each block but the last.
            last_bias: of those in the last.
            real: True where a token counts in the tallies and may take a slot of an expert.
            **options: of every block's call.
        """
        last, gates, tallies = len(self.blocks) - 1, list[Tensor](), Tallies()
        for index, block in enumerate(self.blocks):
            gate = None if self.gate is None else self.gate.step(index, x)
            if gate is not None:
                gates.append(gate)
            routed = {"real": real, "tallies": tallies} if block.experts is not None else {}
            at_end = {"bias": last_bias, "pool": pool} if index == last and not routed else {"bias": bias}
            x = block(x, gate=gate, name=f"blocks.{index}", **at_end, **routed, **options)
            if index == last and routed:
                x = pooled(x, runs=options.get("runs"), pool=pool)
        extra = {"gates": tally(gates, real=real)} if gates else {}
        return self.readout(x), extra | ({"experts": torch.stack(tallies.found)} if tallies.found else {})

    def readout(self, tokens: Float[Tensor, "... w"]) -> Float[Tensor, "... w"]:
        """The final norm, on whichever tokens are given."""
        return self.norm_post(tokens)

    def project(self, tokens: Float[Tensor, "... w"]) -> Float[Tensor, "... d"]:
        """Normed token states into the joint space; that of the class or end token is the embedding."""
        rows = self.projection(tokens)
        return rows if self.point_scale is None else self.point_scale(rows)


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
    width = block.heads * block.head_width
    scale = width**-0.5 if std is None else std
    up, down = (2 * width) ** -0.5 if std is None else std, scale * (2 * layers) ** -0.5
    for conv in block.modules():
        if isinstance(conv, GridConv):
            conv.initialise_(generator)
    for layer, size in (
        *(((block.qkv, scale),) if block.attends else ()),
        *(((block.out_gate, scale),) if block.out_gate is not None else ()),
        *(((block.proj, down),) if block.attends else ()),
        *(((block.up, up), (block.down, down)) if block.experts is None else ()),
    ):
        nn.init.normal_(layer.weight, std=size, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if block.experts is not None:
        block.experts.initialise_(up_std=up, down_std=down, generator=generator)
