"""timm's networks, behind open_clip or as a tower of a composed encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.models.features.parts import BlockAnatomy, CalledBlock, Layout, TokenStream, WayOut, by_head, or_nothing
from tether.models.features.pooling import AttentionPooling, MeanPooling, OtherPooling, Pooling, TokenPooling
from tether.models.features.sealed import SealedTower
from tether.models.features.tower import Projection, TowerAnatomy
from tether.models.features.weights import Weights, fused_linear, held, linear_layers, plain_type


def timm_image(trunk: Any, *, pixels: Callable[[Tensor], Tensor], head: Sequence[Projection]) -> TowerAnatomy:
    """A network of timm.

    Args:
        trunk: the network.
        pixels: normalises images.
        head: what stands between its own output and the joint space.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if type(trunk) not in (VisionTransformer, Eva):
        return _sealed(trunk, pixels=pixels, head=head)
    return TimmImage(
        blocks=[_block(block) for block in trunk.blocks],
        prefix=trunk.num_prefix_tokens,
        width=trunk.embed_dim,
        norm=or_nothing(trunk.norm),
        pooling=_pooling(trunk),
        after=or_nothing(trunk.fc_norm),
        projections=[trunk.head_drop, trunk.head, *head],
        what=type(trunk).__name__,
        trunk=trunk,
        pixels=pixels,
    )


def _pooling(trunk: Any) -> Pooling:
    from timm.layers import AttentionPoolLatent

    included = getattr(trunk, "pool_include_prefix", type(trunk).__name__ == "Eva" and trunk.attn_pool is not None)
    first, pool, kind = 0 if included else trunk.num_prefix_tokens, trunk.attn_pool, trunk.global_pool
    if pool is not None:
        plain = type(pool) is AttentionPoolLatent and pool.latent_len == 1 and pool.pos_embed is None
        if not plain or not isinstance(pool.proj, nn.Linear) or not isinstance(pool.kv, nn.Linear):
            return OtherPooling(
                pool, f"{type(pool).__name__} with several queries, positions of its own or an adapter", first=first
            )
        return _attention(pool, first)
    if kind == "token":
        return TokenPooling()
    if kind == "avg":
        return MeanPooling(first)
    return OtherPooling(lambda x: _reduced(x, kind), f"{kind!r}", first=first)


def _reduced(x: Tensor, kind: str) -> Tensor:
    from timm.layers import global_pool_nlc

    return global_pool_nlc(x, pool_type=kind, num_prefix_tokens=0)


def _attention(pool: Any, first: int) -> AttentionPooling:
    half, heads = len(pool.kv.weight) // 2, pool.num_heads

    def query_keys(x: Tensor) -> tuple[Tensor, Tensor]:
        queries = by_head(pool.q(pool.latent.expand(len(x), -1, -1)), heads=heads)
        keys = by_head(pool.kv(x)[..., :half], heads=heads)
        return pool.q_norm(queries), pool.k_norm(keys)

    return AttentionPooling(
        pool=pool,
        query_keys=query_keys,
        values=pool.kv.weight[half:],
        value_bias=None if pool.kv.bias is None else pool.kv.bias[half:],
        output=pool.proj,
        rest=None if pool.mlp is None else lambda x: pool.mlp(pool.norm(x)),
        first=first,
    )


def _block(block: Any) -> BlockAnatomy:
    from timm.layers import Attention, AttentionRope
    from timm.models.eva import EvaAttention, EvaBlock
    from timm.models.vision_transformer import Block

    kinds = (Attention, AttentionRope, EvaAttention)
    plain = type(block) in (Block, EvaBlock) and plain_type(block.attn) in kinds
    if plain and getattr(block.attn, "gate", None) is None:
        return TimmBlock(block)
    return CalledBlock(block, call=_call, heads=int(getattr(getattr(block, "attn", None), "num_heads", 0)))


def _call(block: Any, x: Tensor, layout: Layout) -> Tensor:
    return block(x) if layout.turn is None else block(x, rope=layout.turn)


class TimmBlock(BlockAnatomy):
    """A ``Block`` or an ``EvaBlock``."""

    def __init__(self, block: Any) -> None:
        """Args: block: its module."""
        self.block, self.heads = block, block.attn.num_heads

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return _call(self.block, x, layout)

    @property
    def out(self) -> WayOut:
        """From the heads into the stream."""
        scale = self.block.gamma_1 if hasattr(self.block, "gamma_1") else getattr(self.block.ls1, "gamma", None)
        return WayOut(self.block.attn.proj, inner=or_nothing(self.block.attn.norm), scale=scale)

    def qkv(self, normed: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """With norms of queries and keys, and turned by where patches stand; grouped keys are repeated."""
        attention = self.block.attn
        if attention.qkv is None:
            parts = [layer(normed) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        elif getattr(attention, "q_bias", None) is None:
            parts = list(attention.qkv(normed).chunk(3, dim=-1))
        else:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            parts = list(F.linear(normed, attention.qkv.weight, bias).chunk(3, dim=-1))
        groups = getattr(attention, "num_kv_groups", 1)
        queries = attention.q_norm(by_head(parts[0], heads=self.heads))
        keys, values = (by_head(part, heads=self.heads // groups) for part in parts[1:])
        keys = attention.k_norm(keys)
        if layout.turn is not None:
            queries, keys = (self._turned(rows, layout.turn).type_as(values) for rows in (queries, keys))
        if groups > 1:
            keys, values = (rows.repeat_interleave(groups, dim=1) for rows in (keys, values))
        return queries, keys, values

    def _turned(self, rows: Tensor, turn: Tensor) -> Tensor:
        from timm.layers import apply_rot_embed_cat

        attention = self.block.attn
        first = attention.num_prefix_tokens
        patches = apply_rot_embed_cat(rows[:, :, first:], turn, half=getattr(attention, "rotate_half", False))
        return torch.cat([rows[:, :, :first], patches], dim=2)

    def feed_forward(self, x: Tensor, layout: Layout) -> Tensor:
        """What the feed-forward net adds."""
        block = self.block
        branch = block.mlp(block.norm2(x))
        if hasattr(block, "ls2"):
            return block.ls2(branch)
        return branch if block.gamma_2 is None else block.gamma_2 * branch

    def linears(self) -> Mapping[str, Weights]:
        """Queries, keys and values in one layer or three; EVA's biases of the one layer lie beside it."""
        attention, mlp = self.block.attn, self.block.mlp
        if attention.qkv is None:
            found = linear_layers({"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj})
        else:
            found = fused_linear(attention.qkv, dict.fromkeys(("q", "k", "v"), len(attention.qkv.weight) // 3))
            for part in "qv":
                apart = held(attention, f"{part}_bias")
                found[part] = found[part] if apart is None else replace(found[part], bias=apart)
        found |= linear_layers({"o": attention.proj, "down": mlp.fc2})
        if hasattr(mlp, "fc1_g"):
            return found | linear_layers({"gate": mlp.fc1_g, "up": mlp.fc1_x})
        halves = ("up", "gate") if getattr(mlp, "gate_last", False) else ("gate", "up")
        hidden = mlp.fc2.in_features
        return found | fused_linear(mlp.fc1, dict.fromkeys(halves if hasattr(mlp, "gate_last") else ("up",), hidden))


@dataclass(frozen=True, kw_only=True, eq=False)
class TimmImage(TowerAnatomy):
    """timm's ``VisionTransformer`` or ``Eva``."""

    trunk: Any
    pixels: Callable[[Tensor], Tensor]

    def embed(self, batch: Tensor) -> TokenStream:
        """Images to the stream that enters block 0."""
        trunk, turn = self.trunk, None
        x = trunk._pos_embed(trunk.patch_embed(self.pixels(batch)))
        if isinstance(x, tuple):
            x, turn = x
        elif trunk.patch_drop is not None:
            x = trunk.patch_drop(x)
        x = trunk.norm_pre(x)
        return TokenStream(x, Layout.first(x, grid=self.grid(batch), turn=turn))

    def layout_of(self, layout: Layout, keep: Tensor) -> Layout:
        """The turns of the patches that are kept, of each image its own."""
        turn = layout.turn
        if turn is not None:
            turn = turn[keep][:, None] if turn.ndim == 2 else turn[:, :, keep].transpose(1, 2)
        return replace(layout, grid=None, turn=turn)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        patches = self.trunk.patch_embed
        known = hasattr(patches, "dynamic_feat_size")
        rows, columns = patches.dynamic_feat_size(image.shape[2:]) if known else patches.grid_size
        return rows, columns

    def layout_at(self, layout: Layout, index: int) -> Layout:
        """Blocks that each turn in their own way get their own of the turns."""
        mixed = getattr(self.trunk, "rope_mixed", False) and layout.turn is not None
        return replace(layout, turn=layout.turn[index]) if mixed else layout


def _sealed(trunk: Any, *, pixels: Callable[[Tensor], Tensor], head: Sequence[Projection]) -> TowerAnatomy:
    """A network whose last states are all that can be seen: a map, or tokens of blocks that are not known here."""
    tokens = hasattr(trunk, "num_prefix_tokens")
    channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"

    def states(image: Tensor) -> Tensor:
        found = trunk.forward_features(pixels(image))
        return found.permute(0, 3, 1, 2) if channels_last else found

    def pool(found: Tensor) -> Tensor:
        return trunk.forward_head(found.permute(0, 2, 3, 1) if channels_last else found)

    return SealedTower(
        prefix=trunk.num_prefix_tokens if tokens else 0,
        width=int(trunk.num_features),
        pooling=OtherPooling(pool, "its own head"),
        projections=head,
        sealed="other transformer" if tokens else "map",
        what=type(trunk).__name__,
        states=states,
    )
