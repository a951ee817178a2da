"""transformers' SigLIP image tower taken apart: patches only, pooled by an attention with a learned query."""

from __future__ import annotations

import functools
from typing import Any, cast

from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.models.decomposition.pieces import (
    Anatomy,
    AttentionLayer,
    ReadOut,
    fused_attention,
    listening,
    softmax_of,
    split_heads,
    stacked_heads,
)
from tether.models.decomposition.pooling import attention_read_out
from tether.models.wrapped_encoders import TransformersEncoder


def dissect_siglip(model: TransformersEncoder, images: Tensor) -> Anatomy:
    """One pass through the wrapped model's image tower; each head of its pooling attention is a reader.

    Raises:
        UnsupportedModelError: a tower without its pooling head.
    """
    tower: Any = cast(Any, model.model).vision_model
    layers: list[Any] = list(tower.encoder.layers)
    head: Any = dict(tower.named_children()).get("head")
    if head is None:
        raise UnsupportedModelError("the image tower has no pooling head; expected SigLIP's")
    outputs = {f"normed {i}": layer.layer_norm1 for i, layer in enumerate(layers)}
    outputs |= {f"fed {i}": layer.mlp for i, layer in enumerate(layers)}
    outputs |= {"rest": head.mlp}
    inputs = {"embedding": layers[0].layer_norm1, "final": tower.post_layernorm}
    with listening(outputs, inputs=inputs) as seen:
        pooled = model.encode_image(images).pooled
    return Anatomy(
        embedding=seen["embedding"],
        attention=tuple(_layer(layer.self_attn, seen[f"normed {i}"]) for i, layer in enumerate(layers)),
        feed_forward=tuple(seen[f"fed {i}"] for i in range(len(layers))),
        read_out=_read_out(head, tower.post_layernorm, seen["final"], rest=seen["rest"]),
        pooled=pooled,
        class_tokens=0,
    )


def _layer(attention: Any, normed: Tensor) -> AttentionLayer:
    queries, keys, values = (
        split_heads(layer(normed), heads=attention.num_heads)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    output = stacked_heads(attention.out_proj.weight, heads=attention.num_heads)
    return AttentionLayer(functools.partial(softmax_of, queries, keys), values, output, attention.out_proj.bias)


def _read_out(head: Any, norm: nn.LayerNorm, final: Tensor, *, rest: Tensor) -> ReadOut:
    attention: nn.MultiheadAttention = head.attention
    queries, keys, _ = fused_attention(attention, norm(final), queries=head.probe.expand(len(final), -1, -1))
    return attention_read_out(
        final,
        norm=norm,
        weights=softmax_of(queries, keys)[:, :, 0],
        values=attention.in_proj_weight.chunk(3)[2],
        value_bias=attention.in_proj_bias.chunk(3)[2],
        output=attention.out_proj,
        rest=rest.flatten(1),
    )
