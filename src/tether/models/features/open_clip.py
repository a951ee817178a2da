"""open_clip's own transformers: its image tower, CLIP's text tower inside the model, and its text tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.models.encoders.wrapped import OpenClipEncoder, padded
from tether.models.features.parts import (
    BlockAnatomy,
    CalledBlock,
    Layout,
    TokenStream,
    WayOut,
    by_head,
    or_nothing,
)
from tether.models.features.pooling import AttentionPooling, MeanPooling, OtherPooling, Pooling, TokenPooling, projected
from tether.models.features.tower import TextAnatomy, TowerAnatomy
from tether.models.features.weights import Weights, fused, held, linear_layers, plain_type
from tether.models.refusals import refusal

_NORMS = {"ln_1": "norm1", "ln_2": "norm2"}


def open_clip_image(model: OpenClipEncoder, tower: Any) -> TowerAnatomy:
    """An open_clip ``VisionTransformer``."""
    pooling, norm, after = _pooling(tower)
    return OpenClipImage(
        blocks=[_block(block) for block in tower.transformer.resblocks],
        prefix=1,
        width=tower.transformer.width,
        norm=norm,
        pooling=pooling,
        after=after,
        projections=[] if tower.proj is None else [tower.proj],
        what=type(tower).__name__,
        tower=tower,
        pixels=model.pixels,
    )


def open_clip_text(model: OpenClipEncoder, tower: Any) -> TextAnatomy:
    """A ``TextTransformer``, or the model itself where the text tower lies in it."""
    last = "cls_emb" in dict(tower.named_parameters(recurse=False))
    projection = tower.text_projection
    return OpenClipText(
        blocks=[_block(block) for block in tower.transformer.resblocks],
        width=tower.transformer.width,
        norm=None if last else tower.ln_final,
        pooling=TokenPooling(),
        after=tower.ln_final if last else None,
        projections=[] if projection is None else [projection],
        what=type(tower).__name__,
        tower=tower,
        width_of_text=model.tokenizer.context_length,
        pad=model.pad,
    )


def _pooling(tower: Any) -> tuple[Pooling, nn.Module | None, nn.Module | None]:
    """The pooling, the norm before it and the norm after it."""
    pool = tower.attn_pool
    if pool is not None:
        one = tower.attn_pool_contrastive is None and tower.pool_type == "tok"
        if not one or type(pool.attn) is not nn.MultiheadAttention:
            return (
                OtherPooling(
                    lambda x: tower._pool(x)[0], "attention with several queries, or one that an adapter changes"
                ),
                None,
                None,
            )
        return _first_query(pool), pool.ln_k, tower.ln_post
    pooling = MeanPooling(1) if tower.pool_type == "avg" else TokenPooling()
    if tower.pool_type not in ("tok", "avg"):
        pooling = OtherPooling(lambda x: x, f"{tower.pool_type!r}")
    return (pooling, None, tower.ln_post) if tower.final_ln_after_pool else (pooling, tower.ln_post, None)


def _first_query(pool: Any) -> AttentionPooling:
    """CoCa's pooling: the first of its queries is the embedding, the others serve its decoder."""
    attention: nn.MultiheadAttention = pool.attn
    if attention.in_proj_weight is None:
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    else:
        weights = list(attention.in_proj_weight.chunk(3))
    biases = attention.in_proj_bias.chunk(3)

    def query(x: Tensor) -> Tensor:
        return pool.ln_q(pool.query[:1]).to(x.dtype).expand(len(x), -1, -1)

    return AttentionPooling(
        pool=lambda x: attention(query(x), x, x, need_weights=False)[0][:, 0],
        query_keys=projected(query, weights, biases, heads=attention.num_heads),
        values=weights[2],
        value_bias=biases[2],
        output=attention.out_proj,
    )


def _block(block: Any) -> BlockAnatomy:
    from open_clip.transformer import Attention, CustomResidualAttentionBlock, ResidualAttentionBlock

    plain = type(block) is ResidualAttentionBlock and plain_type(block.attn) is nn.MultiheadAttention
    custom = type(block) is CustomResidualAttentionBlock and plain_type(block.attn) is Attention
    if (plain and not hasattr(block, "ln_1_kv")) or (custom and block.attn.logit_scale is None):
        return OpenClipBlock(block)
    return OpenClipWholeBlock(block, call=_call, heads=_heads(block))


def _call(block: Any, x: Tensor, layout: Layout) -> Tensor:
    bias = layout.bias
    if bias is not None and bias.ndim == 4:
        heads = _heads(block)
        bias = bias.expand(len(x), heads, -1, -1).flatten(0, 1)
    return block(x, attn_mask=bias)


def _heads(block: Any) -> int:
    """Of an attention, or of the one that an adapter stands in for."""
    return int(getattr(block.attn, "base_layer", block.attn).num_heads)


class OpenClipBlock(BlockAnatomy):
    """A ``ResidualAttentionBlock``, or one of the custom kind."""

    norm_names = _NORMS

    def __init__(self, block: Any) -> None:
        """Args: block: its module."""
        self.block, self.heads = block, block.attn.num_heads

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return _call(self.block, x, layout)

    @property
    def out(self) -> WayOut:
        """From the heads into the stream."""
        block, attention = self.block, self.block.attn
        factor = getattr(attention, "head_scale", None)
        return WayOut(
            attention.out_proj,
            head_factor=None if factor is None else factor.flatten(),
            inner=or_nothing(getattr(attention, "ln_inner", None)),
            outer=or_nothing(getattr(block, "ln_attn", None)),
            scale=getattr(block.ls_1, "gamma", None),
        )

    def qkv(self, normed: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """From the one projection of all three."""
        attention = self.block.attn
        whole = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = (by_head(part, heads=self.heads) for part in whole.chunk(3, dim=-1))
        if hasattr(attention, "ln_q"):
            queries, keys = attention.ln_q(queries), attention.ln_k(keys)
        return queries, keys, values

    def feed_forward(self, x: Tensor, layout: Layout) -> Tensor:
        """What the feed-forward net adds."""
        return self.block.ls_2(self.block.mlp(self.block.ln_2(x)))

    def linears(self) -> Mapping[str, Weights]:
        """Queries, keys and values lie in one parameter of the attention itself."""
        attention, mlp = self.block.attn, self.block.mlp
        third = dict.fromkeys(("q", "k", "v"), len(attention.in_proj_weight) // 3)
        return {
            **fused(attention, third, weight="in_proj_weight", bias=held(attention, "in_proj_bias")),
            **linear_layers({"o": attention.out_proj, "up": mlp.c_fc, "down": mlp.c_proj}),
        }


class OpenClipWholeBlock(CalledBlock):
    """A block of another kind."""

    norm_names = _NORMS


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenClipImage(TowerAnatomy):
    """A ``VisionTransformer``."""

    tower: Any
    pixels: Callable[[Tensor], Tensor]

    def embed(self, batch: Tensor) -> TokenStream:
        """Images to the stream that enters block 0."""
        x = self.tower._embeds(self.pixels(batch))
        return TokenStream(x, Layout.first(x, grid=self.grid(batch)))

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        down, across = self.tower.patch_size
        return image.shape[2] // down, image.shape[3] // across


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenClipText(TextAnatomy):
    """CLIP's text tower or a ``TextTransformer``, CoCa's with a class token at the end."""

    tower: Any
    width_of_text: int
    pad: int

    def prepare(self, text: Tensor) -> Tensor:
        """Padded to the whole context."""
        return padded(text, width=self.width_of_text, pad=self.pad)[0]

    def token_rows(self, ids: Tensor) -> Tensor:
        """The table's rows."""
        return self.tower.token_embedding(ids).to(self.tower.transformer.get_cast_dtype())

    def embed(self, batch: Tensor, *, rows: Tensor | None = None) -> TokenStream:
        """Token ids to the stream that enters block 0."""
        tower, ids = self.tower, self.prepare(batch)
        x = self.rows_of(ids, rows)
        cls = getattr(tower, "cls_emb", None)
        if cls is not None:
            x = torch.cat([x, cls.to(x.dtype).expand(len(x), 1, -1)], dim=1)
        n = x.shape[1]
        bias = tower.attn_mask
        bias = None if bias is None else bias[:n, :n]
        if cls is not None or getattr(tower, "use_pad_mask", False):
            hidden = tower._build_additive_mask(ids, n, x.dtype).unflatten(0, (len(x), -1))
            bias = hidden if bias is None else hidden + bias
        x = x + tower.positional_embedding[:n].to(x.dtype)
        return TokenStream(x, Layout(self._reads(ids, n=n, last=cls is not None), bias=bias, ids=ids))

    def _reads(self, ids: Tensor, *, n: int, last: bool) -> Tensor:
        tower = self.tower
        inside = hasattr(tower, "text_pool_type")
        kind = "last" if last else tower.text_pool_type if inside else tower.pool_type
        if kind == "eos":
            end = tower.text_eos_id if inside else tower.eos_id
            return ids.eq(end).int().argmax(dim=-1)
        if kind == "argmax":
            return ids.argmax(dim=-1)
        if kind not in ("first", "last"):
            raise refusal("pooling", f"the text tower pools by {kind!r}")
        return torch.full((len(ids),), 0 if kind == "first" else n - 1, device=ids.device)
