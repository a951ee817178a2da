"""Where the tokens of an image stand, and convolutions over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Grid:
    """A stream's layout: ``before`` tokens that have no place, then the patches of an image, row by row.

    Attributes:
        rows: patches down.
        columns: patches across.
        before: tokens ahead of the patches, such as the class token.
        keep: (b, k) indices of the patches that are there; None means all.
        seen: (b, k) True where one of those may be looked at by the others; None means all.
    """

    rows: int
    columns: int
    before: int = 0
    keep: Int[Tensor, "b k"] | None = None
    seen: Bool[Tensor, "b k"] | None = None

    def positions(self, device: torch.device) -> Int[Tensor, "... n 2"]:
        """Row and column of every token, (n, 2), or (b, n, 2) with dropped patches; (0, 0) for one without a place."""
        index = self._index(device)
        place = torch.stack([index.div(self.columns, rounding_mode="floor"), index % self.columns], dim=-1)
        return F.pad(place, (0, 0, self.before, 0))

    def places(self, device: torch.device) -> Int[Tensor, "... n"]:
        """Every token's place in the whole stream, (n,), or (b, n) with dropped patches: those leave gaps."""
        index = self.before + self._index(device)
        ahead = torch.arange(self.before, device=device).expand(*index.shape[:-1], -1)
        return torch.cat([ahead, index], dim=-1)

    def _index(self, device: torch.device) -> Tensor:
        return torch.arange(self.rows * self.columns, device=device) if self.keep is None else self.keep


class GridConv(nn.Module):
    """A depthwise convolution over the patches, zero outside the image; its weights stay unset until filled.

    A token without a place gets zero and gives nothing. A dropped or hidden patch counts as zero, like the
    world outside.
    """

    def __init__(self, channels: int, *, side: int) -> None:
        """Args: channels: of the stream. side: of the square kernel, odd."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, side, side))
        self.bias = nn.Parameter(torch.empty(channels))

    def initialise_(self, generator: torch.Generator) -> None:
        """Normal weights with a variance of one over the kernel's area, no bias."""
        nn.init.normal_(self.weight, std=1 / self.weight.shape[-1], generator=generator)
        nn.init.zeros_(self.bias)

    def nothing(self) -> Float[Tensor, ""]:
        """What a token without a place gets; it hangs on the weights, as DDP waits for every gradient, even of zero."""
        return 0 * (self.weight.sum() + self.bias.sum())

    def forward(self, x: Float[Tensor, "b n c"], *, grid: Grid) -> Float[Tensor, "b n c"]:
        """What the convolution gives at every token."""
        cells = grid.rows * grid.columns
        there = cells if grid.keep is None else grid.keep.shape[1]
        if x.shape[1] != grid.before + there:
            raise InputError(f"grid: {grid.before} + {there} tokens expected, got {x.shape[1]}")
        patches = x[:, grid.before :]
        if grid.seen is not None:
            patches = patches.masked_fill(~grid.seen[..., None], 0)
        index = None if grid.keep is None else grid.keep[..., None].expand(-1, -1, x.shape[2])
        if index is not None:
            patches = patches.new_zeros(len(x), cells, x.shape[2]).scatter(1, index, patches)
        image = patches.unflatten(1, (grid.rows, grid.columns)).permute(0, 3, 1, 2)
        reach = self.weight.shape[-1] // 2
        out = F.conv2d(image, self.weight, self.bias, padding=reach, groups=len(self.weight))
        out = out.permute(0, 2, 3, 1).flatten(1, 2).to(x.dtype)
        if index is not None:
            out = out.gather(1, index)
        return F.pad(out, (0, 0, grid.before, 0))
