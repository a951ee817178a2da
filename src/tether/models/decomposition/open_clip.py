"""open_clip's own vision transformer taken apart, where it stays as it is (mean pooling, foreign text towers)."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.models.decomposition.pieces import (
    Anatomy,
    AttentionLayer,
    ReadOut,
    fused_attention,
    listening,
    softmax_of,
    stacked_heads,
)
from tether.models.decomposition.pooling import mean_read_out
from tether.models.wrapped_encoders import OpenClipEncoder


def dissect_open_clip(model: OpenClipEncoder, images: Tensor) -> Anatomy:
    """One pass through the wrapped model's image tower.

    Raises:
        UnsupportedModelError: another tower than open_clip's or timm's ``VisionTransformer``, CoCa's pooling, or
            blocks of another kind.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    from tether.models.decomposition.timm import dissect_timm

    tower = model.model.get_submodule("visual")
    if isinstance(tower, TimmModel):
        return dissect_timm(model, images, tower=tower)
    if type(tower) is not VisionTransformer:
        raise UnsupportedModelError(f"the image tower is a {type(tower).__name__}; expected a VisionTransformer")
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
    width = final.shape[-1]
    projection = torch.eye(width, dtype=final.dtype, device=final.device) if tower.proj is None else tower.proj.T
    counts = final.new_ones(final.shape[1])
    if tower.pool_type == "avg":
        # The class token is computed as well, but the mean is taken of the patches alone.
        counts[0] = 0
    place = "after" if tower.final_ln_after_pool else "before"
    return mean_read_out(final, counts=counts / counts.sum(), norm=tower.ln_post, place=place, projection=projection)
