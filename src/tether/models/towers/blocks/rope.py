"""Rotary positions: queries and keys are turned by where they stand, so that scores depend on distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rotary:
    """One rotary scheme.

    Attributes:
        turn: ``(x (..., n, d), *, position, theta) -> x``, turned.
        axes: numbers in a position: 0 (none is needed), 1 (place in a text) or 2 (row and column in an image).
        divisor: what d must be divisible by.
    """

    turn: Callable[..., Tensor]
    axes: int
    divisor: int

    def __call__(self, x: Float[Tensor, "... n d"], *, position: Tensor, theta: float) -> Float[Tensor, "... n d"]:
        """Turn every pair of channels.

        Args:
            x: (..., n, d).
            position: (n,) with one axis, (n, 2) with two; with a batch axis ahead of these, x is (b, h, n, d).
            theta: base of the angles.
        """
        return self.turn(x, position=position, theta=theta)


@dataclass(frozen=True, slots=True)
class Turn:
    """A scheme at given positions, as an attention core takes it.

    Attributes:
        scheme: an entry of ``ROPE``.
        theta: base of the angles.
        asked: positions of the queries.
        held: positions of the keys.
    """

    scheme: Rotary
    theta: float
    asked: Tensor
    held: Tensor

    def queries(self, x: Tensor) -> Tensor:
        """(b, h, m, d), turned."""
        return self.scheme(x, position=self.asked, theta=self.theta)

    def keys(self, x: Tensor) -> Tensor:
        """(b, h, n, d), turned."""
        return self.scheme(x, position=self.held, theta=self.theta)


def no_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Leave queries and keys as they are."""
    return x


def half_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Pairs (i, i + d/2) of the last axis (arXiv 2104.09864)."""
    angle = _line(x, position, theta)
    first, second = x.chunk(2, dim=-1)
    return torch.cat(_rotate(angle, first, second), dim=-1)


def interleaved_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Pairs (2i, 2i + 1) of the last axis (arXiv 2104.09864)."""
    return _interleaved(x, _line(x, position, theta))


def grid_rope(x: Tensor, *, position: Tensor, theta: float) -> Tensor:
    """Pairs (2i, 2i + 1), the first half of them by row and the rest by column (arXiv 2506.21137, released code).

    The d/4 rates of each half fall from 1 to 1/theta, both included.
    """
    quarter = x.shape[-1] // 4
    rate = theta ** -torch.linspace(0, 1, quarter, device=x.device, dtype=torch.float64)
    return _interleaved(x, _over_heads((position.double()[..., None] * rate).flatten(-2)))


ROPE: Mapping[str, Rotary] = {
    "none": Rotary(no_rope, axes=0, divisor=1),
    "half": Rotary(half_rope, axes=1, divisor=2),
    "interleaved": Rotary(interleaved_rope, axes=1, divisor=2),
    "2d": Rotary(grid_rope, axes=2, divisor=4),
}
"""Rotary schemes by name."""


def _line(x: Tensor, position: Tensor, theta: float) -> Tensor:
    half = x.shape[-1] // 2
    rate = theta ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    return _over_heads(position.double()[..., None] * rate)


def _over_heads(angle: Tensor) -> Tensor:
    return angle if angle.ndim == 2 else angle[:, None]


def _interleaved(x: Tensor, angle: Tensor) -> Tensor:
    return torch.stack(_rotate(angle, x[..., 0::2], x[..., 1::2]), dim=-1).flatten(-2)


def _rotate(angle: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos().to(first.dtype), angle.sin().to(first.dtype)
    return first * cos - second * sin, second * cos + first * sin
