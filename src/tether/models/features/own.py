"""Tether's own towers, as which CLIP models of other libraries are loaded, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

from tether.models.features.parts import (
    BlockAnatomy,
    Layout,
    TokenStream,
    WayOut,
    WholeBlock,
    causal,
    hiding,
    or_nothing,
)
from tether.models.features.pooling import MeanPooling, TokenPooling
from tether.models.features.tower import TextAnatomy, TowerAnatomy
from tether.models.features.weights import Weights, fused_linear, linear_layers
from tether.models.refusals import refusal
from tether.models.towers.blocks.attention import softmax_attention
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.grid import Grid
from tether.models.towers.blocks.layers import swiglu
from tether.models.towers.blocks.mirror_gate import tally
from tether.models.towers.blocks.moe import Tallies
from tether.models.towers.blocks.options import BlockConfig
from tether.models.towers.clip import Clip
from tether.models.towers.text.tower import TextTower
from tether.models.towers.tower import Tower
from tether.models.towers.vision.eva import EvaTower
from tether.models.towers.vision.tower import VisionTower

_PLAIN = BlockConfig()
_MUST_BE_PLAIN = ("residual_scale", "out_gate", "ctx_norm", "lepe", "position_conv")


def own_image(model: Clip) -> TowerAnatomy:
    """The image tower."""
    tower = model.visual
    parts = _parts(tower, text=False)
    if isinstance(tower, EvaTower) and tower.pool == "mean":
        parts |= {"norm": None, "pooling": MeanPooling(), "after": parts["norm"]}
    return OwnImage(**parts, prefix=1, tower=tower)


def own_text(model: Clip) -> TextAnatomy:
    """The text tower."""
    return OwnText(**_parts(model.text, text=True), tower=model.text)


def _parts(tower: VisionTower | TextTower, *, text: bool) -> dict[str, Any]:
    blocks = [cast(TransformerBlock, block) for block in tower.blocks]
    configs = tower.config.blocks
    gated = tower.gate is not None
    return {
        "blocks": [_block(block, config, text, gated=gated) for block, config in zip(blocks, configs, strict=True)],
        "width": tower.config.width,
        "norm": or_nothing(tower.norm_post),
        "pooling": TokenPooling(),
        "after": None,
        "projections": [tower.projection, *([] if tower.point_scale is None else [tower.point_scale])],
        "what": type(tower).__name__,
    }


def _block(block: TransformerBlock, config: BlockConfig, text: bool, *, gated: bool) -> BlockAnatomy:
    if gated:
        return OwnWholeBlock(block, text=text, reason="gates", what="mirror")
    if config.attention == "none":
        return OwnWholeBlock(block, text=text, reason="blocks", what="the block has no attention")
    if block.experts is not None:
        return OwnWholeBlock(block, text=text, reason="blocks", what="the block has experts")
    odd = [name for name in _MUST_BE_PLAIN if getattr(config, name) != getattr(_PLAIN, name)]
    if "post" in (*config.attn_norm, *config.ffn_norm):
        odd.append("a norm after the sum (post)")
    if "c" in config.qkv_norm:
        odd.append("qkv_norm: c")
    if config.attention != "softmax" and config.rope != "none":
        odd.append("rope under linear attention")
    if config.attention != "softmax" and text:
        odd.append("causal linear attention")
    if odd:
        return OwnWholeBlock(block, text=text, reason="blocks", what=f"the tower's blocks use {', '.join(odd)}")
    return OwnBlock(block, text=text)


def _call(block: TransformerBlock, x: Tensor, layout: Layout, *, text: bool) -> Tensor:
    return block(x, causal=text, grid=layout.turn)


class _OwnWeights(BlockAnatomy):
    """What can be reached of any ``TransformerBlock``."""

    block: TransformerBlock
    norm_names: ClassVar[Mapping[str, str]] = {"attn_pre": "norm1", "ffn_pre": "norm2"}

    def linears(self) -> Mapping[str, Weights]:
        """Queries, keys and values lie in one layer, as do the two halves of SwiGLU; a block may have no attention."""
        block = self.block
        keys, rest = block.kv_heads * block.head_width, {}
        if block.out_gate is not None:
            rest |= linear_layers({"out_gate": block.out_gate})
        if block.experts is None:
            hidden = block.down.in_features
            up = {"up": hidden, "gate": hidden} if block.activation is swiglu else {"up": hidden}
            rest |= {**linear_layers({"down": block.down}), **fused_linear(block.up, up)}
        if not block.attends:
            return rest
        qkv = fused_linear(block.qkv, {"q": block.heads * block.head_width, "k": keys, "v": keys})
        return {**qkv, **linear_layers({"o": block.proj}), **rest}


class OwnBlock(_OwnWeights):
    """A ``TransformerBlock`` that only adds to the stream."""

    def __init__(self, block: TransformerBlock, *, text: bool) -> None:
        """Args: block: its module. text: whether it sees the past alone."""
        self.block, self.text, self.heads = block, text, block.heads

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return _call(self.block, x, layout, text=self.text)

    @property
    def out(self) -> WayOut:
        """From the heads into the stream."""
        block, factor = self.block, self.block.head_scale
        spread = factor is not None and block.head_scale_place == "after_proj"
        rows = None if factor is None else factor.repeat_interleave(block.head_width)
        return WayOut(
            block.proj,
            head_factor=None if spread else factor,
            factor=rows if spread else None,
            outer=block.attn_out,
            scale=block.attn_scale,
        )

    def qkv(self, normed: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """With grouped keys repeated for each query head."""
        return self.block.heads_of(normed, grid=layout.turn)

    def feed_forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Of all tokens, or of the class token alone."""
        return self.block.feed_forward(x, grid=layout.turn if x.shape[1] > 1 else None)

    def weights(self, queries: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
        """The attention core's."""
        if self.block.core.attend is softmax_attention:
            return super().weights(queries, keys, bias)
        return self.block.core.weights(queries, keys, bias=bias)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """The attention core's."""
        return self.block.core(queries, keys, values, causal=False, bias=bias)


class OwnWholeBlock(_OwnWeights, WholeBlock):
    """A ``TransformerBlock`` that does more than add to the stream."""

    def __init__(self, block: TransformerBlock, *, text: bool, reason: str, what: str) -> None:
        """Args: block: its module. text: whether it sees the past alone. reason, what: as ``WholeBlock``."""
        super().__init__(heads=block.heads, reason=reason, what=what)
        self.block, self.text = block, text

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return _call(self.block, x, layout, text=self.text)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnImage(TowerAnatomy):
    """A ``VisionTower``."""

    tower: VisionTower

    def embed(self, batch: Tensor) -> TokenStream:
        """Images to the stream that enters block 0."""
        return self.embed_some(batch, keep=None)

    def embed_some(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None) -> TokenStream:
        """The same of some patches; those that are not in ``keep`` are not even projected."""
        rows, columns = self.tower.config.grid
        x = self.tower.embed(image, keep=keep)
        grid = None if keep is not None else (rows, columns)
        return TokenStream(x, Layout.first(x, grid=grid, turn=Grid(rows, columns, before=1, keep=keep)))

    def step(self, stream: TokenStream, index: int) -> TokenStream:
        """The stream after one block."""
        return gated_step(self.tower, stream, index, self.blocks)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.tower.config.grid


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnText(TextAnatomy):
    """A ``TextTower``, its rows padded."""

    tower: TextTower

    def prepare(self, text: Tensor) -> Tensor:
        """The ids as they are."""
        return text

    def token_rows(self, ids: Tensor) -> Tensor:
        """The table's rows."""
        return self.tower.token(ids)

    def embed(self, batch: Tensor, *, rows: Tensor | None = None) -> TokenStream:
        """Token ids to the stream that enters block 0."""
        reads = self.tower.ends(batch)
        x = self.rows_of(batch, rows)
        if self.tower.position is not None:
            x = x + self.tower.position[: x.shape[1]]
        return TokenStream(x, Layout(reads, bias=hiding(causal(x.shape[1], x.device), x.dtype), ids=batch))

    def step(self, stream: TokenStream, index: int) -> TokenStream:
        """The stream after one block."""
        return gated_step(self.tower, stream, index, self.blocks)


def gated_step(tower: Tower, stream: TokenStream, index: int, blocks: Sequence[BlockAnatomy]) -> TokenStream:
    """The stream after one block of a tower that may have gates or experts; tallies are complete after the last."""
    block, layout = blocks[index], stream.layout
    if tower.gate is None and cast(TransformerBlock, tower.blocks[index]).experts is None:
        return stream.to(block(stream.x, layout))
    if not isinstance(block, OwnWholeBlock):
        raise refusal("gates", type(block).__name__)
    places = torch.arange(stream.x.shape[1], device=stream.x.device)
    real = None if layout.ids is None else places <= layout.reads[:, None]
    gate = None if tower.gate is None else tower.gate.step(index, stream.x)
    tallies, extra = Tallies(), dict(stream.extra)
    x = block.block(stream.x, causal=block.text, grid=layout.turn, gate=gate, real=real, tallies=tallies)
    if gate is not None:
        extra["gates"] = torch.cat([*([extra["gates"]] if "gates" in extra else []), tally([gate], real=real)])
    if tallies.found:
        extra["experts"] = torch.cat([*([extra["experts"]] if "experts" in extra else []), tallies.found[0][None]])
    return replace(stream, x=x, extra=extra)
