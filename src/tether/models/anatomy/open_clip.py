"""open_clip's own vision transformer taken apart, where it stays as it is (mean pooling, foreign text towers)."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.models.anatomy.pieces import (
    Anatomy,
    AttentionLayer,
    ReadOut,
    class_token_read_out,
    fused_attention,
    gain_of,
    listening,
    norm_statistics,
    shift_of,
    softmax_of,
    stacked_heads,
)
from tether.models.wrap import OpenClipEncoder


def dissect_open_clip(model: OpenClipEncoder, images: Tensor) -> Anatomy:
    """One pass through the wrapped model's image tower.

    Raises:
        UnsupportedModelError: another tower than open_clip's ``VisionTransformer``, one that pools by attention, or
            blocks of another kind.
        InputError: pictures of the wrong shape.
    """
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    tower = model.model.get_submodule("visual")
    if type(tower) is not VisionTransformer:
        raise UnsupportedModelError(
            f"the image tower is a {type(tower).__name__}; expected open_clip's VisionTransformer"
        )
    if tower.attn_pool is not None or tower.pool_type not in ("tok", "avg"):
        raise UnsupportedModelError("the image tower pools by attention; expected a class token or mean pooling")
    blocks: list[Any] = list(cast(Any, tower.transformer).resblocks)
    strange = [type(block).__name__ for block in blocks if type(block) is not ResidualAttentionBlock]
    if strange:
        raise UnsupportedModelError(f"the image tower has blocks of kind {strange[0]}; expected ResidualAttentionBlock")
    outputs = {f"normed {i}": block.ln_1 for i, block in enumerate(blocks)}
    outputs |= {f"fed {i}": block.ls_2 for i, block in enumerate(blocks)}
    with listening(outputs, inputs={"embedding": blocks[0]}) as seen, listening({"final": blocks[-1]}) as last:
        pooled = model.encode_image(images).pooled
    asked = slice(0, 1) if tower.pool_type == "tok" else slice(None)
    final = last["final"][:, asked]
    return Anatomy(
        embedding=seen["embedding"][:, asked],
        attention=tuple(_layer(block, seen[f"normed {i}"], asked=asked) for i, block in enumerate(blocks)),
        feed_forward=tuple(seen[f"fed {i}"][:, asked] for i in range(len(blocks))),
        read_out=_read_out(tower, final),
        pooled=pooled,
        class_tokens=1,
    )


def _layer(block: Any, normed: Tensor, *, asked: slice) -> AttentionLayer:
    attention: nn.MultiheadAttention = block.attn
    queries, keys, values = fused_attention(attention, normed, queries=normed[:, asked])
    weight, offset = attention.out_proj.weight, attention.out_proj.bias
    if not isinstance(block.ls_1, nn.Identity):
        weight, offset = weight * block.ls_1.gamma[:, None], offset * block.ls_1.gamma
    output = stacked_heads(weight, heads=attention.num_heads)
    return AttentionLayer(functools.partial(softmax_of, queries, keys), values, output, offset)


def _read_out(tower: Any, final: Tensor) -> ReadOut:
    norm: nn.LayerNorm = tower.ln_post
    width = final.shape[-1]
    projection = torch.eye(width, dtype=final.dtype, device=final.device) if tower.proj is None else tower.proj.T
    if tower.pool_type == "tok":
        return class_token_read_out(final, norm=norm, projection=projection)
    # The class token is computed as well, but the mean is taken of the patches alone.
    counts = final.new_full((len(final), final.shape[1]), 1 / (final.shape[1] - 1))
    counts[:, 0] = 0
    if tower.final_ln_after_pool:
        mean, deviation = norm_statistics(norm, torch.einsum("bq,bqw->bw", counts, final))
        weights, mean = counts / deviation[:, None], mean / deviation
    else:
        mean, deviation = norm_statistics(norm, final)
        weights = counts / deviation
        mean = (weights * mean).sum(1)
    return ReadOut(
        weights=weights[:, None],
        mean=mean[:, None],
        maps=(projection * gain_of(norm, final))[None],
        offset=projection @ shift_of(norm, final),
        rest=final.new_zeros(len(final), 0, len(projection)),
    )
