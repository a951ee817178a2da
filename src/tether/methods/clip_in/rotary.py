"""Rotary positions as a layer of their own, for attention that is not one of our blocks."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.models.towers.blocks.rope import half_rope


@final
class RotaryEmbedding(nn.Module):
    """Turns queries or keys by where they stand, so that their product depends on the distance only.

    Channels i and i + head_dim / 2 form a pair that turns by ``position * base ** (-2 i / head_dim)``: the rotate-half
    form (arXiv 2104.09864; used by 2508.02329), the same function as ``rope: half`` of a block. It has neither
    parameters nor buffers: angles are made in float64 from whole positions at each call, so that moving the model to
    half precision cannot coarsen them.
    """

    @checked
    def __init__(
        self, head_dim: Annotated[int, Ge(2)], *, base: Positive = 10000.0, length: Count | None = None
    ) -> None:
        """Take the settings.

        Args:
            head_dim: channels of one head; even.
            base: the slowest pair turns by about 1 / base a position.
            length: positions from here on are refused; None = any.
        """
        super().__init__()
        if head_dim % 2:
            raise InputError(f"head_dim: expected an even number of channels, got {head_dim!r}")
        self.head_dim, self.base, self.length = head_dim, base, length

    def forward(
        self, x: Float[Tensor, "... l d"], *, position: Int[Tensor, " l"] | None = None
    ) -> Float[Tensor, "... l d"]:
        """Turn every head's rows.

        Args:
            x: queries or keys, (..., l, head_dim); values are never turned.
            position: (l,) whole numbers; None counts from 0.
        """
        if x.ndim < 2 or x.shape[-1] != self.head_dim:
            raise InputError(f"x: expected (..., l, {self.head_dim}), got {tuple(x.shape)}")
        if position is None:
            position = torch.arange(x.shape[-2], device=x.device)
        self._check(position, rows=x.shape[-2])
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return half_rope(wide, position=position.to(x.device), theta=self.base).to(x.dtype)

    def _check(self, position: Tensor, *, rows: int) -> None:
        if position.shape != (rows,) or position.is_floating_point():
            raise InputError(f"position: expected ({rows},) integers, got {position.dtype} {tuple(position.shape)}")
        if position.device.type == "cpu" and rows:
            least, most = (int(end) for end in position.aminmax())
            limit = "any" if self.length is None else f"below {self.length}"
            if least < 0 or (self.length is not None and most >= self.length):
                raise InputError(f"position: expected 0 and up, {limit}, got {least} to {most}")

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"{self.head_dim}, base={self.base:g}, length={self.length}"
