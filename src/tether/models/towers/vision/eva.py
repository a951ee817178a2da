"""EVA's image towers: rotary positions on a span, keys without an offset, the class token or a mean of all tokens."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.geometry import GeometryName
from tether.core.types import Features
from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.grid import GridConv
from tether.models.towers.blocks.layers import NORMS, LayerNorm, Linear, swiglu
from tether.models.towers.blocks.mirror_gate import MirrorGate
from tether.models.towers.blocks.rope import Rotary, grid_rope
from tether.models.towers.blocks.trace import Trace
from tether.models.towers.config import TowerConfig
from tether.models.towers.embedding_scale import point_scale
from tether.models.towers.positions import Pair
from tether.models.towers.tower import Want
from tether.models.towers.vision.eva_config import EvaConfig
from tether.models.towers.vision.tower import VisionTower

STD = 0.02
"""Of every weight at the start, before those that end in the stream are made smaller with depth."""


def span_rope(
    x: Float[Tensor, "... n d"], *, position: Tensor, theta: float, scale: tuple[float, float]
) -> Float[Tensor, "... n d"]:
    """Turn pairs (2i, 2i + 1), the first half of them by row and the rest by column, as EVA-02 does.

    It is ``rope: 2d`` of a block with other rates: those of a half fall from 1 towards 1 / theta, which is not reached.

    Args:
        x: queries or keys, (..., n, d).
        position: (n, 2) row and column, or (b, n, 2); (0, 0), as the class token's, turns nothing.
        theta: base of the angles.
        scale: what rows and columns are multiplied by.
    """
    quarter = x.shape[-1] // 4
    place = position * torch.tensor(scale, dtype=torch.float64, device=position.device)
    return grid_rope(x, position=place, theta=theta ** (1 - 1 / quarter))


class QueryValueLinear(Linear):
    """Queries, keys and values by one matrix; queries and values have an offset."""

    def __init__(self, width: int, *, sizes: tuple[int, int, int]) -> None:
        """Args: width: channels of the stream. sizes: channels of queries, keys and values."""
        super().__init__(width, sum(sizes), bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(sizes[0])), nn.Parameter(torch.empty(sizes[2]))

    @property
    def bias(self) -> Tensor:  # pyrefly: ignore[bad-override] - in place of torch's parameter
        """(out,): zero for the keys."""
        keys = len(self.weight) - len(self.q_bias) - len(self.v_bias)
        return torch.cat([self.q_bias, self.q_bias.new_zeros(keys), self.v_bias])


class EvaBlock(TransformerBlock):
    """The one block, turned on a span and without an offset of keys."""

    def __init__(
        self, width: int, *, heads: int, hidden: int, config: BlockConfig, qkv_bias: bool, grid: Pair, span: int | None
    ) -> None:
        """Build the layers; linear weights stay unset.

        Args:
            width: channels of the stream.
            heads: query heads; must divide the width.
            hidden: width of the feed-forward net.
            config: the block's options.
            qkv_bias: whether queries and values have an offset.
            grid: rows and columns of patches.
            span: side of the grid that positions are counted on; None turns nothing.
        """
        super().__init__(width, heads=heads, hidden=hidden, config=config)
        if self.attends:
            keys = self.kv_heads * self.head_width
            rows = (width, keys, keys)
            self.qkv = QueryValueLinear(width, sizes=rows) if qkv_bias else Linear(width, sum(rows), bias=False)
        if self.attends and span is not None:
            scale = (span / grid[0], span / grid[1])
            self.rope = Rotary(functools.partial(span_rope, scale=scale), axes=2, divisor=4)
            self.needs_grid = True
        if self.ffn_mid is not None and self.activation is not swiglu:
            self.ffn_mid = LayerNorm(hidden, eps=1e-5)  # sic, in the released code, whatever the tower's norm


class EvaTower(VisionTower):
    """A vision transformer as EVA's: patches with an offset, no norm before the blocks, EVA-02's rotary positions.

    Token 0 is the class token, token 1 + i is patch i, row by row from the top left. Equal to the released code of
    EVA-01 to EVA-CLIP-18B, and to timm's ``Eva``; of our own: the projection starts as large as every other weight.

    Source: arXiv 2402.04252 and 2303.15389 (github.com/baaivision/EVA).

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> model = create("tiny", vision={"tower": "eva", "rope_span": 4})
        >>> model.encode_image(torch.rand(2, 3, 32, 32)).pooled.shape
        torch.Size([2, 64])
        >>> from tether.models.presets import configure
        >>> from tether.models.towers.vision.eva import EvaTower
        >>> with torch.device("meta"):  # no memory is taken
        ...     tower = EvaTower(configure("eva-clip-18b").vision, dim=1536)
        >>> round(sum(weight.numel() for weight in tower.parameters()) / 1e9, 1)
        17.6
    """

    def __init__(self, config: EvaConfig, *, dim: int, geometry: GeometryName = "clip") -> None:
        """Build the layers; weights stay unset until ``initialise_`` or ``load_state_dict``."""
        super().__init__(config, dim=dim, geometry=geometry)
        self.patch = Linear(3 * config.patch**2, config.width)
        self.norm_pre = cast(nn.Module, nn.Identity())
        self.pool = config.pool

    def build_stack_(self, config: TowerConfig, *, dim: int, geometry: GeometryName) -> None:
        """See ``Tower``."""
        assert isinstance(config, EvaConfig)
        self.blocks = nn.ModuleList(
            EvaBlock(
                config.width,
                heads=config.heads,
                hidden=config.hidden,
                config=block,
                qkv_bias=config.qkv_bias,
                grid=config.grid,
                span=config.rope_span,
            )
            for block in config.blocks
        )
        last = config.blocks[-1]
        self.gate = MirrorGate(config.width, depth=config.layers) if config.gate == "mirror" else None
        keep = config.final_layernorm == "keep"
        self.norm_post = NORMS[last.norm](config.width, eps=last.norm_eps) if keep else nn.Identity()
        self.projection = Linear(config.width, dim, bias=config.qkv_bias)
        self.point_scale = point_scale(geometry, dim=dim)

    def initialise_(self, generator: torch.Generator) -> None:
        """Draw every weight, cut normals; those of block i that end in the stream over the root of 2 (i + 1)."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.trunc_normal_(module.weight, std=STD, generator=generator)
                for name, value in module.named_parameters(recurse=False):
                    if name.endswith("bias"):
                        nn.init.zeros_(value)
            elif isinstance(module, GridConv):
                module.initialise_(generator)
        nn.init.trunc_normal_(self.class_token, std=STD, generator=generator)
        nn.init.trunc_normal_(self.position, std=STD, generator=generator)
        with torch.no_grad():
            for index, block in enumerate(self.blocks):
                assert isinstance(block, EvaBlock)
                for layer in (block.proj, block.down) if block.attends else (block.down,):
                    layer.weight /= (2 * (index + 1)) ** 0.5
        if self.gate is not None:
            self.gate.initialise_(generator)

    def readout(self, tokens: Float[Tensor, "... w"]) -> Float[Tensor, "... w"]:
        """The final norm of a tower that reads its class token; a mean is normed after it is taken."""
        return tokens if self.pool == "mean" else super().readout(tokens)

    def forward(
        self,
        image: Tensor,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        keep: Int[Tensor, "b k"] | None = None,
        want: Want = "pooled",
        trace: Trace | None = None,
    ) -> Features:
        """See ``Clip.encode_image``; with ``pool: mean`` tokens are not normed, and ``pooled`` is of their mean."""
        if self.pool == "class":
            return super().forward(image, mask=mask, keep=keep, want=want, trace=trace)
        found = super().forward(image, mask=mask, keep=keep, want="tokens", trace=trace)
        assert found.tokens is not None
        if found.mask is None:
            mean = found.tokens.mean(dim=1)
        else:
            seen = found.mask[..., None].to(found.tokens.dtype)
            mean = (found.tokens * seen).sum(dim=1) / seen.sum(dim=1)
        pooled = self.project(self.norm_post(mean))
        if want == "pooled":
            return Features(pooled, extra=found.extra)
        return replace(found, pooled=pooled)
