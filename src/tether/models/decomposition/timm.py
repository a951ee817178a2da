"""timm's vision transformer behind open_clip taken apart: open_clip's SigLIP models and others."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.models.decomposition.pieces import Anatomy, AttentionLayer, ReadOut, listening, softmax_of, stacked_heads
from tether.models.decomposition.pooling import attention_read_out, mean_read_out
from tether.models.wrapped_encoders import OpenClipEncoder


def dissect_timm(model: OpenClipEncoder, images: Tensor, *, tower: nn.Module) -> Anatomy:
    """One pass through a wrapped model whose image tower is open_clip's ``TimmModel``.

    Raises:
        UnsupportedModelError: another network than timm's ``VisionTransformer``, or one with other blocks or poolings.
    """
    trunk: Any = cast(Any, tower).trunk
    blocks = _blocks(trunk)
    outputs: dict[str, nn.Module] = {f"normed {i}": block.norm1 for i, block in enumerate(blocks)}
    outputs |= {f"fed {i}": block.ls2 for i, block in enumerate(blocks)}
    pool = trunk.attn_pool
    if pool is not None and pool.mlp is not None:
        outputs["rest"] = pool.mlp
    with listening(outputs, inputs={"embedding": blocks[0], "final": trunk.norm}) as seen:
        pooled = model.encode_image(images).pooled
    single = pool is None and trunk.global_pool == "token"
    asked = slice(0, 1) if single else slice(None)
    return Anatomy(
        embedding=seen["embedding"][:, asked],
        attention=tuple(_layer(block, seen[f"normed {i}"], asked=asked) for i, block in enumerate(blocks)),
        feed_forward=tuple(seen[f"fed {i}"][:, asked] for i in range(len(blocks))),
        read_out=_read_out(tower, trunk, seen["final"][:, asked], rest=seen.get("rest")),
        pooled=pooled,
        class_tokens=trunk.num_prefix_tokens,
    )


def _blocks(trunk: Any) -> list[Any]:
    """The blocks of a network that this can take apart."""
    from timm.layers import Attention, AttentionPoolLatent
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(trunk) is not VisionTransformer:
        raise UnsupportedModelError(f"the image tower is a {type(trunk).__name__}; expected a VisionTransformer")
    blocks: list[Any] = list(trunk.blocks)
    if not all(type(block) is Block and _plain(block.attn, Attention) for block in blocks):
        raise UnsupportedModelError("the image tower's blocks are not timm's plain pre-norm ones")
    pool, kind = trunk.attn_pool, trunk.global_pool
    if pool is None and kind not in ("token", "avg"):
        raise UnsupportedModelError(f"the image tower pools by {kind!r}; expected token, avg or map")
    if pool is not None and (
        type(pool) is not AttentionPoolLatent or pool.latent_len != 1 or pool.pos_embed is not None
    ):
        raise UnsupportedModelError("the image tower's pooling attention has several queries or positions of its own")
    norms = [norm for norm in (trunk.norm, trunk.fc_norm) if not _nothing(norm)]
    if len(norms) != 1 or not isinstance(norms[0], nn.LayerNorm) or (pool is not None and not _nothing(trunk.fc_norm)):
        raise UnsupportedModelError("the image tower has no single layer norm at its end")
    return blocks


def _plain(attention: Any, kind: type) -> bool:
    return type(attention) is kind and attention.gate is None and _nothing(attention.norm)


def _nothing(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity)


def _layer(block: Any, normed: Tensor, *, asked: slice) -> AttentionLayer:
    attention = block.attn
    queries, keys, values = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys = attention.q_norm(queries[:, :, asked]), attention.k_norm(keys)
    weight = attention.proj.weight
    offset = normed.new_zeros(len(weight)) if attention.proj.bias is None else attention.proj.bias
    if not _nothing(block.ls1):
        weight, offset = weight * block.ls1.gamma[:, None], offset * block.ls1.gamma
    output = stacked_heads(weight, heads=attention.num_heads)
    return AttentionLayer(functools.partial(softmax_of, queries, keys), values, output, offset)


def _projection(tower: Any, trunk: Any) -> tuple[Tensor | None, Tensor | None]:
    """The classifier of timm and the projection of open_clip as one map; None for both where there are none."""
    weight: Tensor | None = None
    bias: Tensor | None = None
    for layer in (trunk.head, *tower.head):
        if isinstance(layer, (nn.Identity, nn.Dropout)):
            continue
        if not isinstance(layer, nn.Linear):
            raise UnsupportedModelError(f"the image tower ends in a {type(layer).__name__}; expected a linear map")
        weight = layer.weight if weight is None else layer.weight @ weight
        bias = layer.bias if bias is None else layer(bias)
    return weight, bias


def _read_out(tower: Any, trunk: Any, final: Tensor, *, rest: Tensor | None) -> ReadOut:
    projection, offset = _projection(tower, trunk)
    first = 0 if trunk.pool_include_prefix else trunk.num_prefix_tokens
    if trunk.attn_pool is None:
        if projection is None:
            projection = torch.eye(final.shape[-1], dtype=final.dtype, device=final.device)
        counts = final.new_ones(final.shape[1])
        if trunk.global_pool == "avg":
            counts[:first] = 0
        norm, place = (trunk.fc_norm, "after") if _nothing(trunk.norm) else (trunk.norm, "before")
        counts = counts / counts.sum()
        return mean_read_out(final, counts=counts, norm=norm, place=place, projection=projection, offset=offset)
    pool = trunk.attn_pool
    pooled = trunk.norm(final)[:, first:]
    keys, _ = pool.kv(pooled).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries = pool.q(pool.latent.expand(len(final), -1, -1)).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
    weights = softmax_of(pool.q_norm(queries), pool.k_norm(keys))[:, :, 0]
    weights = torch.cat([weights.new_zeros(*weights.shape[:2], first), weights], dim=-1)
    half = len(pool.kv.weight) // 2
    return attention_read_out(
        final,
        norm=trunk.norm,
        weights=weights,
        values=pool.kv.weight[half:],
        value_bias=None if pool.kv.bias is None else pool.kv.bias[half:],
        output=pool.proj,
        projection=projection,
        offset=offset,
        rest=None if rest is None else rest.flatten(1),
    )
