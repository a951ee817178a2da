"""Grids of 2 to 16 bits around a clip value or over a spread, and how gradients pass the rounding."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.compression.quantise.octav import Bits, Dims, dims_of, largest, magnitudes, octav_clip
from tether.core.errors import InputError
from tether.core.ranges import Decay, checked

Gradient = Literal["ste", "pwl", "mad"]
Observer = Literal["octav", "max", "spread"]


class _Clipped(torch.autograd.Function):
    """Values on a grid; the gradient of what is clipped is kept, dropped, or made smaller with its distance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, step: Tensor, ends: tuple[float, float], gradient: Gradient) -> Tensor:
        ctx.gradient = gradient
        if gradient != "ste":
            ctx.save_for_backward(x, s)
        return ((x / step).round().clamp(*ends) * step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyrefly: ignore[bad-override]
        if ctx.gradient == "ste":
            return grad, None, None, None, None
        x, s = ctx.saved_tensors
        a = x.abs()
        outside = torch.zeros_like(grad) if ctx.gradient == "pwl" else grad * (s / a.clamp(min=s)).to(grad.dtype)
        return torch.where(a <= s, grad, outside), None, None, None, None


@checked
def round_to_levels(
    x: Float[Tensor, "*shape"],
    s: Float[Tensor, "*clips"],
    bits: Bits,
    *,
    signed: bool = True,
    top: bool = False,
    grad: Gradient = "mad",
) -> Float[Tensor, "*shape"]:
    """Values on the grid that a clip value spans, halves rounded to even.

    Signed levels are ``k * s * 2^(1 - bits)`` for k from ``-2^(bits - 1)`` to ``2^(bits - 1) - 1``: positive values are
    clipped a step below s. Without a sign they are ``k * s * 2^-bits`` for k from 0 to ``2^bits - 1``.

    Args:
        x: any shape.
        s: clip values above 0, broadcastable to x; they get no gradient.
        bits: of the grid.
        signed: whether it has negative levels.
        top: also keep the level +s, one more than the bits can count: to judge clip values, not to store.
        grad: of clipped values: ``ste`` 1, as inside; ``pwl`` 0; ``mad`` s / abs(x).

    Raises:
        InputError: bits or ``grad`` out of range.

    Source: arXiv 2206.06501, sections 3 and 4.
    """
    half = 2 ** (bits - 1)
    ends = (-half, half - 1 + top) if signed else (0, 2 * half - 1 + top)
    wide = torch.promote_types(x.dtype, torch.float32)
    s = s.detach().to(wide)
    return _Clipped.apply(x, s, s / (half if signed else 2 * half), ends, grad)  # pyrefly: ignore


class FakeQuant(nn.Module):
    """Rounds what it is given to a grid of few bits, and says how its gradient passes.

    In training it looks at every tensor anew. In evaluation, and once ``freeze`` was called, it keeps the last clip
    value, which is saved with the model. ``mad`` is meant for weights and ``pwl`` for activations, whose clip value
    may be a ``running`` one.

    Attributes:
        s: clip values (of ``spread`` the steps), NaN until something was seen.
        zero: of ``spread``, the level of zero.

    Source: arXiv 2206.06501. Its gradients for weights and activations are from memory of the paper.

    Example:
        >>> import torch
        >>> from tether.compression.quantise import FakeQuant
        >>> quant = FakeQuant(2, observer="max")
        >>> quant(torch.tensor([-1.0, -0.3, 0.2, 0.9]))
        tensor([-1.0000, -0.5000,  0.0000,  0.5000])
        >>> quant.freeze()(torch.tensor([4.0]))
        tensor([0.5000])
    """

    s: Tensor
    zero: Tensor | None

    @checked
    def __init__(
        self,
        bits: Bits,
        signed: bool = True,
        dim: Dims = None,
        grad: Gradient = "mad",
        observer: Observer = "octav",
        *,
        running: Decay = 0.0,
        across: bool = False,
    ) -> None:
        """Take the settings.

        Args:
            bits: 2 to 16.
            signed: whether there are negative levels; ``spread`` has those that the values need.
            dim: dimensions that share a clip value; None is all.
            grad: of clipped values, see ``round_to_levels``.
            observer: ``octav``, the clip of least squared error; ``max``, the largest magnitude; ``spread``, all levels
                between the least and the largest value and zero.
            running: weight of the past clip value in the next.
            across: look at the values of all processes of ``torch.distributed``.
        """
        super().__init__()
        self.bits, self.signed, self.grad, self.observer = bits, signed, grad, observer
        self.dim: Dims = dim if dim is None or isinstance(dim, int) else tuple(dim)
        self.running, self.across, self.frozen = running, across, False
        self.register_buffer("s", torch.tensor(torch.nan))
        self.register_buffer("zero", torch.tensor(torch.nan) if observer == "spread" else None)

    def behaviour(self) -> dict[str, str]:
        """What decides its outputs beside its buffers, for ``core.model_digest``."""
        return {"grid": self.extra_repr()}

    def extra_repr(self) -> str:
        """The settings."""
        return f"bits={self.bits}, signed={self.signed}, dim={self.dim}, grad={self.grad}, observer={self.observer}"

    def freeze(self) -> FakeQuant:
        """Keep the clip value from now on.

        Raises:
            InputError: nothing was seen yet.
        """
        if bool(self.s.isnan().any()):
            raise InputError("freeze: nothing was seen yet; expected a call before")
        self.frozen = True
        return self

    @torch.no_grad()
    def observe_(self, x: Float[Tensor, "*shape"]) -> None:
        """Set the clip value by these values.

        Raises:
            InputError: NaN or infinite values, or negative ones without a sign.
        """
        zero = None
        if self.observer == "octav":
            s = octav_clip(x, self.bits, signed=self.signed, dim=self.dim, across=self.across)
        else:
            a = magnitudes(x, signed=self.signed or self.observer == "spread")
            dims = dims_of(a, self.dim)
            if self.observer == "max":
                s = largest(a, dims=dims, across=self.across)
                s = torch.where(s == 0, torch.ones_like(s), s)
            else:
                wide = x.double()
                above, below = (largest(part, dims=dims, across=self.across) for part in (wide.relu(), (-wide).relu()))
                s = (above + below) / (2**self.bits - 1)
                s = torch.where(s == 0, torch.ones_like(s), s)
                zero = (below / s).round()
        s = s.to(torch.promote_types(x.dtype, torch.float32))
        if self.running and self.s.shape == s.shape and not bool(self.s.isnan().any()):
            s = self.running * self.s + (1 - self.running) * s
        self.s, self.zero = s, None if zero is None else zero.to(s)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The values on their grid, in their own precision.

        Raises:
            InputError: see ``observe_``.
        """
        if not self.frozen and (self.training or bool(self.s.isnan().any())):
            self.observe_(x)
        if self.zero is None:
            return round_to_levels(x, self.s, self.bits, signed=self.signed, grad=self.grad)
        s = self.s.to(torch.promote_types(x.dtype, torch.float32))
        codes = ((x.detach() / s).round() + self.zero).clamp(0, 2**self.bits - 1)
        rounded = ((codes - self.zero) * s).to(x.dtype)
        return rounded + (x - x.detach()) if x.requires_grad else rounded

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("s", "zero"):  # their shape is that of what was seen
            if (prefix + name) in state_dict and getattr(self, name) is not None:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.s.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
