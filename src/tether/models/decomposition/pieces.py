"""The pieces of one pass through an image tower, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """One layer's attention with its weights held fixed: what q computed tokens take of n source tokens.

    Attributes:
        weigh: gives the (b, h, q, n) weights; called when they are needed, as they can be large.
        values: (b, h, n, e) of each source token, with their bias.
        output: (w, h, e) from each head into the stream.
        offset: (w,), or (b, q, w) where it differs, added once however many heads there are.
    """

    weigh: Callable[[], Float[Tensor, "b h q n"]]
    values: Float[Tensor, "b h n e"]
    output: Float[Tensor, "w h e"]
    offset: Tensor


@dataclass(frozen=True, slots=True)
class ReadOut:
    """How the final stream x becomes the embedding, with every norm and weight held fixed at what it was.

    ``embedding = sum_r maps[r] @ (sum_q weights[r, q] x[q] - mean[r]) + offset + sum(rest)``. A class token is one
    reader of one token; a pooling attention is one reader for each of its heads.

    Attributes:
        weights: (b, r, q) what each computed token counts, divided by the norm's deviation.
        mean: (b, r) what the norm takes from every channel.
        maps: (r, d, w) into the joint space, with the norm's factors.
        offset: (d,) or (b, d).
        rest: (b, k, d) what the read-out adds by itself, k usually 0.
    """

    weights: Float[Tensor, "b r q"]
    mean: Float[Tensor, "b r"]
    maps: Float[Tensor, "r d w"]
    offset: Tensor
    rest: Float[Tensor, "b k d"]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One batch of images inside a pre-norm tower.

    Attributes:
        embedding: (b, q, w) the computed tokens as they enter block 0.
        attention: of each layer.
        feed_forward: (b, q, w) that each layer adds.
        read_out: from the final stream to the embedding.
        pooled: (b, d) the embedding.
        class_tokens: leading tokens that are no patches.
    """

    embedding: Float[Tensor, "b q w"]
    attention: tuple[AttentionLayer, ...]
    feed_forward: tuple[Float[Tensor, "b q w"], ...]
    read_out: ReadOut
    pooled: Float[Tensor, "b d"]
    class_tokens: int


def softmax_of(queries: Float[Tensor, "b h q e"], keys: Float[Tensor, "b h n e"]) -> Float[Tensor, "b h q n"]:
    """Weights of scaled dot-product attention in the inputs' own precision."""
    return (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)).softmax(-1)


@contextmanager
def listening(
    modules: dict[str, nn.Module], *, inputs: dict[str, nn.Module] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record what modules give out, and the first argument that others are given, while a model runs.

    Args:
        modules: by the name that their output is kept under.
        inputs: by the name that their input is kept under.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, Tensor):
            seen[name] = value

    handles = [
        module.register_forward_hook(lambda _module, _given, made, name=name: keep(name, made))
        for name, module in modules.items()
    ]
    handles += [
        module.register_forward_pre_hook(lambda _module, given, name=name: keep(name, given[0]))
        for name, module in (inputs or {}).items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def stacked_heads(weight: Float[Tensor, "w c"], *, heads: int) -> Float[Tensor, "w h e"]:
    """The columns of an output projection, head by head."""
    return weight.unflatten(1, (heads, -1))


def split_heads(x: Float[Tensor, "b n c"], *, heads: int) -> Float[Tensor, "b h n e"]:
    """Channels to heads."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def fused_attention(
    attention: nn.MultiheadAttention, x: Float[Tensor, "b n w"], *, queries: Float[Tensor, "b q w"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a ``torch.nn.MultiheadAttention`` by head, (b, h, n, e) each."""
    weight, bias, heads = attention.in_proj_weight, attention.in_proj_bias, attention.num_heads
    parts = weight.chunk(3)
    shifts = (None, None, None) if bias is None else bias.chunk(3)
    given = (queries, x, x)
    first, second, third = (
        split_heads(F.linear(rows, part, shift), heads=heads)
        for rows, part, shift in zip(given, parts, shifts, strict=True)
    )
    return first, second, third
