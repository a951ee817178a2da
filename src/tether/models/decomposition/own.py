"""Tether's own image tower taken apart; CLIP's vision transformers of other libraries become this one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.models.blocks.attention import AttentionCore, softmax_attention
from tether.models.blocks.block import TransformerBlock
from tether.models.blocks.layers import RmsNorm
from tether.models.blocks.options import BlockConfig
from tether.models.blocks.trace import Trace
from tether.models.decomposition.pieces import (
    Anatomy,
    AttentionLayer,
    ReadOut,
    listening,
    softmax_of,
    stacked_heads,
)
from tether.models.decomposition.pooling import mean_read_out, norm_statistics
from tether.models.dual import Clip

_PLAIN = BlockConfig()
_MUST_BE_PLAIN = ("residual_scale", "out_gate", "ctx_norm", "lepe", "position_conv")


def dissect_own(model: Clip, images: Tensor) -> Anatomy:
    """One pass through ``model.visual``; its last block computes the class token only.

    Raises:
        UnsupportedModelError: a gated tower, or blocks that change the stream otherwise than by adding to it.
    """
    tower = model.visual
    if tower.config.gate != "none":
        raise UnsupportedModelError("the image tower has gates, which scale what its blocks add; expected gate: none")
    for config in tower.config.blocks:
        _check(config)
    blocks: list[TransformerBlock] = [block for block in tower.blocks if isinstance(block, TransformerBlock)]
    names = [f"blocks.{index}.input" for index in range(len(blocks))]
    with _overheard(blocks) as heard, listening(_ends(blocks), inputs={"final": tower.norm_post}) as seen:
        trace = Trace(keep=names)
        pooled = model.encode_image(images, trace=trace).pooled
    read_out = _read_out(tower.norm_post, seen["final"][:, :1], projection=tower.projection)
    return Anatomy(
        embedding=trace.values[names[0]][:, :1],
        attention=tuple(_layer(block, call) for block, call in zip(blocks, heard, strict=True)),
        feed_forward=tuple(_feed_forward(block, seen[str(index)][:, :1]) for index, block in enumerate(blocks)),
        read_out=read_out,
        pooled=pooled,
        class_tokens=1,
    )


def _check(config: BlockConfig) -> None:
    odd = [name for name in _MUST_BE_PLAIN if getattr(config, name) != getattr(_PLAIN, name)]
    if "post" in (*config.attn_norm, *config.ffn_norm):
        odd.append("a norm after the sum (post)")
    if "c" in config.qkv_norm:
        odd.append("qkv_norm: c")
    if config.attention != "softmax" and config.rope != "none":
        odd.append("rope under linear attention")
    if odd:
        raise UnsupportedModelError(
            f"the image tower's blocks use {', '.join(odd)}; expected pre-norm blocks that only add to the stream"
        )


@dataclass
class _Call:
    """What one block's attention was given."""

    core: AttentionCore
    given: list[Tensor] = field(default_factory=list)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, bias: Tensor | None, **rest: Any) -> Tensor:
        self.given[:] = [q, k, v]
        return self.core.attend(q, k, v, causal=causal, bias=bias, **rest)


@contextmanager
def _overheard(blocks: list[TransformerBlock]) -> Iterator[list[_Call]]:
    """Put a recorder around each block's attention and take it away again."""
    calls = [_Call(block.core) for block in blocks]
    try:
        for block, call in zip(blocks, calls, strict=True):
            block.core = dataclasses.replace(call.core, attend=call.attend)
        yield calls
    finally:
        for block, call in zip(blocks, calls, strict=True):
            block.core = call.core


def _ends(blocks: list[TransformerBlock]) -> dict[str, nn.Module]:
    """The last module of each feed-forward branch."""
    return {str(index): block.down if block.ffn_out is None else block.ffn_out for index, block in enumerate(blocks)}


def _feed_forward(block: TransformerBlock, made: Tensor) -> Tensor:
    return made if block.ffn_scale is None else block.ffn_scale * made


def _layer(block: TransformerBlock, call: _Call) -> AttentionLayer:
    """The class token's attention, with every factor after it folded into the way out."""
    queries, keys, values = call.given
    queries = queries[:, :, :1]
    if call.core.attend is softmax_attention:
        weigh = functools.partial(softmax_of, queries, keys)
    else:
        weigh = functools.partial(call.core.weights, queries, keys)
    output = stacked_heads(block.proj.weight, heads=block.heads)
    offset = values.new_zeros(len(output)) if block.proj.bias is None else block.proj.bias
    if block.head_scale is not None and block.head_scale_place == "heads":
        output = output * block.head_scale[:, None]
    elif block.head_scale is not None:
        rows = block.head_scale.repeat_interleave(len(output) // block.heads)
        output, offset = output * rows[:, None, None], offset * rows
    if block.attn_out is not None:
        return _normed(block, weigh(), values, output, offset)
    if block.attn_scale is not None:
        output, offset = output * block.attn_scale[:, None, None], offset * block.attn_scale
    return AttentionLayer(weigh, values, output, offset)


def _normed(block: TransformerBlock, weights: Tensor, values: Tensor, output: Tensor, offset: Tensor) -> AttentionLayer:
    """A norm on attention's output, its statistics held fixed: linear, with a factor for each computed token."""
    norm = block.attn_out
    assert norm is not None
    branch = torch.einsum("bhqn,bhne,whe->bqw", weights, values, output) + offset
    gain, shift = norm.get_parameter("weight"), offset.new_zeros(len(output))
    if isinstance(norm, nn.LayerNorm):
        _, deviation = norm_statistics(norm, branch)
        output, offset = output - output.mean(0), offset - offset.mean()
        shift = norm.get_parameter("bias")
    else:
        deviation = (branch.square().mean(-1) + _eps(norm)).sqrt()
    if block.attn_scale is not None:
        gain, shift = gain * block.attn_scale, shift * block.attn_scale
    scaled = weights / deviation[:, None, :, None]
    shifted = (gain * offset) / deviation[..., None] + shift
    return AttentionLayer(lambda: scaled, values, output * gain[:, None, None], shifted)


def _eps(norm: nn.Module) -> float:
    assert isinstance(norm, RmsNorm)
    return norm.eps


def _read_out(norm: nn.Module, x: Tensor, *, projection: nn.Linear) -> ReadOut:
    if isinstance(norm, nn.LayerNorm):
        alone = x.new_ones(1)
        weight, bias = projection.weight, projection.bias
        return mean_read_out(x, counts=alone, norm=norm, place="after", projection=weight, offset=bias)
    deviation = (x.square().mean(-1) + _eps(norm)).sqrt()
    return ReadOut(
        weights=(1 / deviation)[:, None],
        mean=torch.zeros_like(deviation),
        maps=(projection.weight * norm.get_parameter("weight"))[None],
        offset=x.new_zeros(projection.out_features),
        rest=x.new_zeros(len(x), 0, projection.out_features),
    )
