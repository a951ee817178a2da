"""transformers' SigLIP image tower taken apart: patches only, pooled by an attention with a learned query."""

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
    fused_attention,
    gain_of,
    listening,
    norm_statistics,
    shift_of,
    softmax_of,
    split_heads,
    stacked_heads,
)
from tether.models.wrap import SiglipEncoder


def dissect_siglip(model: SiglipEncoder, images: Tensor) -> Anatomy:
    """One pass through the wrapped model's image tower; each head of its pooling attention is a reader.

    Raises:
        UnsupportedModelError: a tower without its pooling head.
        InputError: pictures of the wrong shape.
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
    """The pooling attention: its own weights, the norm before it, and both its projections in one map for each head."""
    attention: nn.MultiheadAttention = head.attention
    normed = norm(final)
    queries, keys, _ = fused_attention(attention, normed, queries=head.probe.expand(len(final), -1, -1))
    mean, deviation = norm_statistics(norm, final)
    weights = softmax_of(queries, keys)[:, :, 0] / deviation[:, None]
    values = attention.in_proj_weight.chunk(3)[2].unflatten(0, (attention.num_heads, -1))
    maps = torch.einsum("dre,rew->rdw", stacked_heads(attention.out_proj.weight, heads=attention.num_heads), values)
    shift = torch.einsum("rdw,w->d", maps, shift_of(norm, final))
    shift = shift + attention.out_proj.weight @ attention.in_proj_bias.chunk(3)[2] + attention.out_proj.bias
    return ReadOut(
        weights=weights,
        mean=(weights * mean[:, None]).sum(-1),
        maps=maps * gain_of(norm, final),
        offset=shift,
        rest=rest.reshape(len(final), -1, rest.shape[-1]),
    )
