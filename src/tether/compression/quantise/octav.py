"""The clip value of least squared rounding error, found by a few fixed-point steps (OCTAV)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, distributed

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked

Bits = Annotated[int, Ge(2), Le(16)]
Dims = int | Sequence[int] | None
STEPS, TOLERANCE = 20, 1e-5


@checked
@torch.no_grad()
def octav_clip(
    x: Float[Tensor, "*shape"],
    bits: Bits,
    signed: bool = True,
    dim: Dims = None,
    max_iter: Annotated[int, Ge(1)] = STEPS,
    tol: NonNegative = TOLERANCE,
    *,
    across: bool = False,
) -> Float[Tensor, "*clips"]:
    """Where to clip values so that rounding what is inside and clipping what is outside err least, in squares.

    With magnitudes ``a`` and ``c = 4^-bits / 3`` (a quarter of it without a sign) it repeats
    ``s = sum(a > s: a) / (c * count(0 < a <= s) + count(a > s))`` from their mean on. Zeros are exact at any scale and
    count for nothing. The model behind it takes rounding errors as spread evenly over a step: of values of which
    nearly all lie below half a step (a few outliers twenty times larger), the largest magnitude is the better clip.

    Args:
        x: any shape and float type; sums are taken in float64.
        bits: of the grid, 2 to 16.
        signed: whether the grid has negative levels.
        dim: dimensions that share a clip value; None is all of them.
        max_iter: most steps.
        tol: relative change below which a clip value stays.
        across: sum over all processes of ``torch.distributed``, so that all clip alike.

    Returns:
        Clip values above 0, float64, with ``dim`` kept at length 1; 1 where all is zero.

    Raises:
        InputError: bits or dim out of range, no value at all, NaN or infinite values, or negative ones without a sign.

    Source: arXiv 2206.06501, section 3. It starts at the mean, as the paper's figure does; of values of one magnitude
    that magnitude is the clip.

    Example:
        >>> import torch
        >>> from tether.compression.quantise import octav_clip
        >>> x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> [round(octav_clip(x, bits).item(), 1) for bits in (2, 4, 8)]  # standard deviations of a normal value
        [1.8, 2.6, 4.1]
    """
    a = magnitudes(x, signed=signed)
    dims = dims_of(a, dim)
    c = 4.0**-bits / (3 if signed else 12)
    whole, some = _summed(a, a > 0, dims=dims, across=across)
    most = largest(a, dims=dims, across=across)
    s = whole / some.clamp(min=1)
    done = some == 0
    for _ in range(max_iter):
        outside, beyond = _summed(a * (a > s), a > s, dims=dims, across=across)
        new = torch.where(
            beyond == 0, most, outside / (c * (some - beyond) + beyond).clamp(min=torch.finfo(s.dtype).tiny)
        )
        new = torch.where(done, s, new)
        done = done | (beyond == 0) | ((new - s).abs() <= tol * s)
        s = new
        if bool(done.all()):
            break
    return torch.where(some == 0, torch.ones_like(s), s)


def magnitudes(x: Tensor, *, signed: bool) -> Tensor:
    """Absolute values in float64 of values that a grid can hold.

    Raises:
        InputError: none, NaN or infinite ones, or negative ones without a sign.
    """
    if not x.numel():
        raise InputError(f"x: expected at least one value, got shape {tuple(x.shape)}")
    wide = x.detach().double()
    if not bool(wide.isfinite().all()):
        raise InputError("x: holds values that are NaN or infinite; expected finite ones")
    if not signed and bool((wide < 0).any()):
        raise InputError("x: holds negative values, which a grid without a sign cannot hold; expected signed=True")
    return wide.abs()


def dims_of(a: Tensor, dim: Dims) -> tuple[int, ...]:
    """The dimensions that share a clip value."""
    if dim is None:
        return tuple(range(a.ndim))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if any(not -a.ndim <= one < a.ndim for one in dims):
        raise InputError(f"dim: expected dimensions of a tensor of {a.ndim}, got {dim}")
    return dims


def largest(a: Tensor, *, dims: tuple[int, ...], across: bool) -> Tensor:
    """The largest of some dimensions, which are kept."""
    most = a.amax(dims, keepdim=True)
    if across:
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    return most


def _summed(values: Tensor, counted: Tensor, *, dims: tuple[int, ...], across: bool) -> tuple[Tensor, Tensor]:
    """The sum of values and how many are counted, as floats."""
    both = torch.stack([part.double().sum(dims, keepdim=True) for part in (values, counted)])
    if across:
        distributed.all_reduce(both)
    return both[0], both[1]
