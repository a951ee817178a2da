"""Parts of a tower as linear maps, with the statistics of every norm and the weights of every attention held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.models.features.parts import Layout, WayOut
from tether.models.features.pooling import AttentionPooling, TokenPooling
from tether.models.features.tower import TowerAnatomy
from tether.models.refusals import refusal
from tether.models.towers.blocks.layers import RmsNorm
from tether.models.towers.embedding_scale import PointScale


@dataclass(frozen=True, slots=True)
class FrozenNorm:
    """A norm of given rows: ``gain * (x - mean) / deviation + shift``.

    Attributes:
        gain: (w,).
        shift: (w,).
        deviation: (...) of each row.
        mean: (...) of each row, or None where the norm takes none away.
    """

    gain: Tensor
    shift: Tensor
    deviation: Tensor
    mean: Tensor | None

    @classmethod
    def of(cls, norm: nn.Module, x: Float[Tensor, "... w"]) -> FrozenNorm:
        """The norm at these rows; the variance in two passes, as cancellation costs digits.

        Raises:
            UnsupportedModelError: a norm of another kind.
        """
        one, zero = x.new_ones(x.shape[-1]), x.new_zeros(x.shape[-1])
        if isinstance(norm, nn.LayerNorm):
            mean = x.mean(-1)
            deviation = ((x - mean[..., None]).square().mean(-1) + norm.eps).sqrt()
            gain, shift = (one if norm.weight is None else norm.weight), (zero if norm.bias is None else norm.bias)
            return cls(gain, shift, deviation, mean)
        if isinstance(norm, (RmsNorm, nn.RMSNorm)):
            eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
            weight = norm.weight
            return cls(one if weight is None else weight, zero, (x.square().mean(-1) + eps).sqrt(), None)
        raise refusal("final norm", type(norm).__name__)


@dataclass(frozen=True, slots=True)
class FrozenOutput:
    """What heads add to the stream: ``sum_h (weight[:, h] @ heads[h]) * factor + offset``.

    Attributes:
        weight: (w, h, e) from each head.
        factor: (b, q) of each computed token, or None for one.
        offset: (w,), or (b, q, w) where it differs.
    """

    weight: Float[Tensor, "w h e"]
    factor: Tensor | None
    offset: Tensor

    @classmethod
    def of(cls, out: WayOut, heads: Float[Tensor, "b h q e"]) -> FrozenOutput:
        """The way out at what these heads read."""
        count = heads.shape[1]
        rows = heads if out.head_factor is None else heads * out.head_factor[:, None, None]
        rows = rows.transpose(1, 2).flatten(2)
        weight, bias = _linear(out.linear)
        offset, factor = weight.new_zeros(len(weight)) if bias is None else bias, None
        if out.inner is not None:
            norm = FrozenNorm.of(out.inner, rows)
            offset, factor = offset + weight @ norm.shift, 1 / norm.deviation
            weight = weight * norm.gain
            if norm.mean is not None:
                weight = weight - weight.mean(1, keepdim=True)
        if out.factor is not None:
            weight, offset = weight * out.factor[:, None], offset * out.factor
        if out.outer is not None:
            added = rows @ weight.T
            added = (added if factor is None else added * factor[..., None]) + offset
            norm = FrozenNorm.of(out.outer, added)
            if norm.mean is not None:
                weight, offset = weight - weight.mean(0), offset - offset.mean()
            factor = (1 if factor is None else factor) / norm.deviation
            weight = weight * norm.gain[:, None]
            offset = norm.gain * offset / norm.deviation[..., None] + norm.shift
        if out.scale is not None:
            weight, offset = weight * out.scale[:, None], offset * out.scale
        weight = weight.unflatten(1, (count, -1))
        return cls(weight if out.head_factor is None else weight * out.head_factor[:, None], factor, offset)


@dataclass(frozen=True, slots=True)
class FrozenReadOut:
    """How the final stream x becomes the embedding.

    ``embedding = sum_r maps[r] @ (sum_q weights[r, q] x[q] - mean[r]) + offset + sum(rest)``. A class token is one
    reader of one token; a pooling attention is one reader for each of its heads.

    Attributes:
        weights: (b, r, q) what each computed token counts, divided by the norms' deviations.
        mean: (b, r) what the norm takes from every channel.
        maps: (r, d, w) into the joint space, with the norms' factors.
        offset: (b, d).
        rest: (b, k, d) what the read-out adds by itself, k is 1 where a feed-forward net follows the pooling.
    """

    weights: Float[Tensor, "b r q"]
    mean: Float[Tensor, "b r"]
    maps: Float[Tensor, "r d w"]
    offset: Float[Tensor, "b d"]
    rest: Float[Tensor, "b k d"]

    @classmethod
    def of(cls, tower: TowerAnatomy, x: Float[Tensor, "b n w"], layout: Layout) -> FrozenReadOut:
        """The read-out of a tower at its final stream; of a single token where only one is read.

        Raises:
            UnsupportedModelError: a pooling, norm or projection that is no linear map.
        """
        normed = x if tower.norm is None else tower.norm(x)
        weights = tower.pooling.shares(normed, layout)
        maps, offset, rest = _pooled(tower, normed, layout, x)
        asked = computed(tower, x, layout)
        if asked.shape[1] < x.shape[1]:
            weights = weights.sum(-1, keepdim=True)
        mean = weights.new_zeros(weights.shape[:2])
        if tower.norm is not None:
            norm = FrozenNorm.of(tower.norm, asked)
            offset = offset + torch.einsum("rvw,w->v", maps, norm.shift)
            weights, maps = weights / norm.deviation[:, None], maps * norm.gain
            if norm.mean is not None:
                mean = (weights * norm.mean[:, None]).sum(-1)
        if tower.after is not None:
            norm = FrozenNorm.of(tower.after, tower.pooling(normed, layout))
            weights, mean = weights / norm.deviation[:, None, None], mean / norm.deviation[:, None]
            offset, rest = offset / norm.deviation[:, None], rest / norm.deviation[:, None, None]
            if norm.mean is not None:
                maps = maps - maps.mean(1, keepdim=True)
                offset, rest = offset - offset.mean(-1, keepdim=True), rest - rest.mean(-1, keepdim=True)
            maps, offset, rest = maps * norm.gain[:, None], offset * norm.gain + norm.shift, rest * norm.gain
        for step in tower.projections:
            maps, offset, rest = _projected(step, maps, offset, rest)
        return cls(weights, mean, maps, offset, rest)


def computed(tower: TowerAnatomy, x: Float[Tensor, "b n ..."], layout: Layout) -> Tensor:
    """Of (b, n, ...) the tokens that the read-out looks at: one, or all."""
    return layout.read(x)[:, None] if isinstance(tower.pooling, TokenPooling) else x


def _pooled(tower: TowerAnatomy, normed: Tensor, layout: Layout, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(r, v, w) maps, (b, v) offset and (b, k, v) rest of the pooling itself."""
    pool, batch, width = tower.pooling, len(x), x.shape[-1]
    if not isinstance(pool, AttentionPooling):
        return torch.eye(width, dtype=x.dtype, device=x.device)[None], x.new_zeros(batch, width), x[:, :0]
    weight, bias = _linear(pool.output)
    heads = pool.shares(normed, layout).shape[1]
    maps = torch.einsum("vre,rew->rvw", weight.unflatten(1, (heads, -1)), pool.values.unflatten(0, (heads, -1)))
    offset = weight.new_zeros(len(weight)) if bias is None else bias
    offset = offset if pool.value_bias is None else offset + weight @ pool.value_bias
    if pool.rest is None:
        return maps, offset.expand(batch, -1), x.new_zeros(batch, 0, len(weight))
    shares = pool.shares(normed, layout)
    read = torch.einsum("brn,bnw,rvw->bv", shares, normed, maps) + offset
    return maps, offset.expand(batch, -1), pool.rest(read[:, None])


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer; of an adapter that stands in for one, what it does to the identity."""
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    width, some = cast(Any, layer).in_features, next(layer.parameters())
    nothing = layer(some.new_zeros(1, width))[0]
    return (layer(torch.eye(width, dtype=some.dtype, device=some.device)) - nothing).T, nothing


def _projected(step: object, maps: Tensor, offset: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (r, v, w), offset (b, v) and rest (b, k, v) after one step into the joint space."""
    if isinstance(step, (nn.Identity, nn.Dropout)):
        return maps, offset, rest
    if isinstance(step, PointScale):
        return step(maps), step(offset), step(rest)
    if isinstance(step, Tensor):
        return step.T @ maps, offset @ step, rest @ step
    if isinstance(step, nn.Linear):
        weight, bias = _linear(step)
        offset = offset @ weight.T
        return weight @ maps, offset if bias is None else offset + bias, rest @ weight.T
    raise refusal("projection", f"the tower ends in {getattr(step, '__name__', type(step).__name__)}")
