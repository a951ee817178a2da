"""Attention of each place of a map to its neighbours, and the block that fuses a blurred map with one of tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, checked

Input = Literal["bilinear", "tiles"]
MOST = 2**24
"""Numbers of unfolded keys that are held at once."""


def head_slopes(heads: int) -> Float[Tensor, " heads"]:
    """How much a step away costs in each head: 1/2, 1/2, 1/4, 1/4, and so on."""
    return 2.0 ** -((torch.arange(heads) + 2) // 2).double()


@checked
def local_attention(
    queries: Float[Tensor, "b h e R S"],
    keys: Float[Tensor, "b h e R S"],
    values: Float[Tensor, "b h e R S"],
    *,
    window: Count = 7,
) -> Float[Tensor, "b h e R S"]:
    """Attention within a window around each place; even heads count rows away, odd ones columns.

    Scores are scaled by the root of e, and distances times ``head_slopes`` are taken off. On a small map all scores are
    computed, and those outside of the window hidden. On a large one keys and values are unfolded, a few rows of places
    at a time, so that the cost grows with the map and not with its square. Both give the same.

    Args:
        queries: e numbers of each head and place.
        keys: likewise.
        values: likewise.
        window: side in places, odd.
    """
    if window % 2 == 0:
        raise InputError(f"window: expected an odd side, got {window}")
    batch, heads, size, rows, columns = queries.shape
    reach = window // 2
    if rows * columns <= 2 * size * window**2:  # all scores are fewer numbers than unfolded keys and values
        flat = [one.flatten(3).transpose(2, 3) for one in (queries, keys, values)]
        bias = _window_bias(heads, (rows, columns), reach=reach).to(queries)
        found = F.scaled_dot_product_attention(*flat, attn_mask=bias)
        return found.transpose(2, 3).unflatten(3, (rows, columns))
    near = torch.arange(-reach, reach + 1, device=queries.device).abs().to(queries.dtype)
    slopes = head_slopes(heads).to(queries)[:, None, None]
    even = (torch.arange(heads, device=queries.device) % 2 == 0)[:, None, None]
    cost = (slopes * torch.where(even, near[:, None], near[None])).flatten(1)  # heads, window * window
    padded = [F.pad(one.flatten(0, 2), (reach,) * 4) for one in (keys, values)]
    there = F.pad(queries.new_ones(rows, columns), (reach,) * 4)
    step = max(1, MOST // max(1, 2 * batch * heads * size * columns * window**2))
    found = []
    for top in range(0, rows, step):
        stop = min(rows, top + step)
        part = slice(top, stop + 2 * reach)
        k, v = (
            F.unfold(one[:, None, part], window).view(batch, heads, size, window**2, stop - top, columns)
            for one in padded
        )
        hidden = F.unfold(there[None, None, part], window).view(window**2, stop - top, columns) == 0
        scores = torch.einsum("bhexy,bhekxy->bhkxy", queries[..., top:stop, :] * size**-0.5, k)
        scores = (scores - cost[..., None, None]).masked_fill(hidden, -math.inf)
        found.append(torch.einsum("bhkxy,bhekxy->bhexy", scores.softmax(dim=2), v))
    return torch.cat(found, dim=3)


def _window_bias(heads: int, size: tuple[int, int], *, reach: int) -> Float[Tensor, "h n n"]:
    """What is added to scores of all pairs of places: minus their cost, and minus infinity out of reach."""
    y, x = (one.flatten() for one in torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    down, across = ((one[:, None] - one).abs() for one in (y, x))
    even = (torch.arange(heads) % 2 == 0)[:, None, None]
    cost = head_slopes(heads)[:, None, None] * torch.where(even, down, across)
    return (-cost).masked_fill((down > reach) | (across > reach), -math.inf)


class FusionBlock(nn.Module):
    """Local attention over a map enlarged bilinearly, which has the context, and one of tiles, which is sharp.

    At first it gives the enlarged map.

    Source: FeatSharp (arXiv 2502.16025), section 3, the released code's attention level. Its own ways of enlarging, JBU
    and JAFAR, are left out; ``bilinear`` is one of the code's, too.

    Attributes:
        factor: of the sides.
        inputs: whose channels stand side by side, the first of which is refined.
    """

    @checked
    def __init__(
        self,
        channels: Count,
        *,
        factor: Count,
        inputs: Sequence[Input] = ("bilinear", "tiles"),
        heads: Count = 16,
        window: Count = 7,
        norm: Literal["none", "layer"] = "none",
        start: NonNegative = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            channels: of each input.
            factor: of the sides.
            inputs: see above.
            heads: a divisor of the channels of all inputs together.
            window: side in places, odd.
            norm: before attention and feed-forward net; the released code's configuration has none.
            start: of the scales of both branches.
            generator: of the draw, on the CPU.

        Raises:
            InputError: no input or one twice, or heads that do not divide.
        """
        super().__init__()
        if not inputs or len(set(inputs)) != len(inputs):
            raise InputError(f"inputs: expected each of bilinear and tiles at most once, got {list(inputs)}")
        width = channels * len(inputs)
        if width % heads:
            raise InputError(f"heads: expected a divisor of {width} channels, got {heads}")
        self.factor, self.inputs, self.heads, self.window = factor, tuple(inputs), heads, window
        hidden = math.ceil(int(4 * width * 2 / 3) / 8) * 8
        self.tile_pos = nn.Parameter(torch.zeros(1, channels, factor, factor))
        self.norm1 = nn.LayerNorm(width) if norm == "layer" else nn.Identity()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.scale1 = nn.Parameter(torch.full((width,), start))
        self.norm2 = nn.LayerNorm(width) if norm == "layer" else nn.Identity()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, channels)
        self.scale2 = nn.Parameter(torch.full((channels,), start))
        for layer in (self.qkv, self.proj, self.w12, self.w3):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(
        self, low: Float[Tensor, "b c r s"], tiles: Float[Tensor, "b c R S"] | None = None
    ) -> Float[Tensor, "b c R S"]:
        """The fine map.

        Args:
            low: of the whole image.
            tiles: of its tiles, ``factor`` times as many rows and columns; None where they are no input.

        Raises:
            InputError: tiles of another size, or none where they are an input.
        """
        size = (low.shape[2] * self.factor, low.shape[3] * self.factor)
        given = []
        for name in self.inputs:
            if name == "bilinear":
                given.append(F.interpolate(low, size, mode="bilinear", align_corners=False))
                continue
            if tiles is None or tiles.shape != (*low.shape[:2], *size):
                got = None if tiles is None else tuple(tiles.shape)
                raise InputError(f"tiles: expected {(*low.shape[:2], *size)}, got {got}")
            places = self.tile_pos.repeat_interleave(low.shape[2], 2).repeat_interleave(low.shape[3], 3)
            given.append(tiles + places)
        x = torch.cat(given, dim=1).permute(0, 2, 3, 1)  # channels last
        qkv = self.qkv(self.norm1(x)).unflatten(3, (3, self.heads, -1)).permute(3, 0, 4, 5, 1, 2)
        attended = local_attention(*qkv, window=self.window).flatten(1, 2).permute(0, 2, 3, 1)
        x = x + self.scale1 * self.proj(attended)
        gate, up = self.w12(self.norm2(x)).chunk(2, dim=3)
        z = x[..., : low.shape[1]] + self.scale2 * self.w3(F.silu(gate) * up)
        return z.permute(0, 3, 1, 2)
