"""The ways in which towers turn their final stream into an embedding, each as one frozen linear map."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.models.decomposition.pieces import ReadOut


def norm_statistics(norm: nn.LayerNorm, x: Float[Tensor, "... w"]) -> tuple[Tensor, Tensor]:
    """Mean and deviation that a layer norm takes of each row; in two passes, as cancellation costs digits."""
    mean = x.mean(-1)
    return mean, ((x - mean[..., None]).square().mean(-1) + norm.eps).sqrt()


def gain_of(norm: nn.LayerNorm, x: Tensor) -> Float[Tensor, " w"]:
    """The factors of a layer norm, ones where it has none."""
    return x.new_ones(x.shape[-1]) if norm.weight is None else norm.weight


def shift_of(norm: nn.LayerNorm, x: Tensor) -> Float[Tensor, " w"]:
    """What a layer norm adds, zeros where it adds nothing."""
    return x.new_zeros(x.shape[-1]) if norm.bias is None else norm.bias


def mean_read_out(
    x: Float[Tensor, "b q w"],
    *,
    counts: Float[Tensor, " q"],
    norm: nn.LayerNorm,
    place: Literal["before", "after"],
    projection: Float[Tensor, "d w"],
    offset: Float[Tensor, " d"] | None = None,
) -> ReadOut:
    """A weighted mean of tokens through a layer norm and a linear projection; one token is the mean of itself.

    Args:
        x: the final stream of the computed tokens.
        counts: what each token counts, adding up to 1.
        norm: the tower's last.
        place: whether it stands before the mean, on every token, or after.
        projection: into the joint space.
        offset: the projection's bias.
    """
    if place == "after":
        mean, deviation = norm_statistics(norm, torch.einsum("q,bqw->bw", counts, x))
        weights, mean = counts / deviation[:, None], mean / deviation
    else:
        mean, deviation = norm_statistics(norm, x)
        weights = counts / deviation
        mean = (weights * mean).sum(1)
    shift = projection @ shift_of(norm, x)
    return ReadOut(
        weights=weights[:, None],
        mean=mean[:, None],
        maps=(projection * gain_of(norm, x))[None],
        offset=shift if offset is None else shift + offset,
        rest=x.new_zeros(len(x), 0, len(projection)),
    )


def attention_read_out(
    x: Float[Tensor, "b q w"],
    *,
    norm: nn.LayerNorm | None,
    weights: Float[Tensor, "b r q"],
    values: Float[Tensor, "c w"],
    value_bias: Float[Tensor, " c"] | None,
    output: nn.Linear,
    projection: Float[Tensor, "d v"] | None = None,
    offset: Float[Tensor, " d"] | None = None,
    rest: Float[Tensor, "b v"] | None = None,
) -> ReadOut:
    """A pooling attention with one learned query: each of its heads is a reader.

    Args:
        x: the final stream.
        norm: stands before the pooling, on every token; None if there is none.
        weights: of the pooling attention, adding up to 1.
        values: its value projection, head after head.
        value_bias: of that.
        output: its output projection.
        projection: from there into the joint space; None if that is it already.
        offset: the projection's bias.
        rest: what the head adds after the attention, before the projection.
    """
    heads = weights.shape[1]
    through = output.weight if projection is None else projection @ output.weight
    maps = torch.einsum("dre,rew->rdw", through.unflatten(1, (heads, -1)), values.unflatten(0, (heads, -1)))
    shift = x.new_zeros(len(through)) if offset is None else offset
    if value_bias is not None:
        shift = shift + through @ value_bias
    if output.bias is not None:
        shift = shift + (output.bias if projection is None else projection @ output.bias)
    mean = weights.new_zeros(weights.shape[:2])
    if norm is not None:
        shift = shift + torch.einsum("rdw,w->d", maps, shift_of(norm, x))
        means, deviation = norm_statistics(norm, x)
        weights = weights / deviation[:, None]
        mean, maps = (weights * means[:, None]).sum(-1), maps * gain_of(norm, x)
    if rest is None:
        left = x.new_zeros(len(x), 0, len(through))
    else:
        left = (rest if projection is None else rest @ projection.T)[:, None]
    return ReadOut(weights, mean, maps, shift, left)
