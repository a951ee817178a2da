"""The 4-bit grids: values in, the nearest representable values out, group by group.

A group is a run of consecutive elements in memory order, whatever the shape. Source: arXiv 2502.17055, section 5, and
the released code under utils/, which is followed where it differs from its own settings: input groups have the weights'
size, rounding is to the nearest, and FP4 (E1M2) is the uniform grid that its code gives.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError

GROUP, KEEP_TOP = 256, 2
"""The released code's."""
LARGEST_CODE = 15
"""Of an unsigned 4-bit weight."""
INPUT_STEPS = 7
"""Steps from zero to the largest input of a group; one more fits on the negative side."""
FP4_STEPS = 4
"""Steps from zero to the largest value of a group: k / 4 of it, k = -4..4."""
LEAST_RANGE, LEAST_INPUT = 1e-5, 1e-6


def int4_codes(
    weight: Float[Tensor, "*shape"], *, group: int = GROUP
) -> tuple[UInt8[Tensor, "*shape"], Float[Tensor, "g 1"], Float[Tensor, "g 1"]]:
    """Unsigned 4-bit codes of a weight, with a scale and a zero point for each group.

    The zero point is one of the codes, as in the released code: values of a group that lies wholly above or below zero
    are cut off at its spread.

    Args:
        weight: any shape.
        group: elements that share a scale; must divide their number.

    Returns:
        The codes in the weight's shape, and (g, 1) scales and zero points: the value is ``(code - zero) * scale``.

    Raises:
        InputError: the group does not divide the number of elements.
    """
    rows = _grouped(weight, group)
    least, most = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    scale = (most - least).clamp(min=LEAST_RANGE) / LARGEST_CODE
    zero = (-(least / scale).round()).clamp_(0, LARGEST_CODE)
    codes = ((rows / scale).round_() + zero).clamp_(0, LARGEST_CODE)
    return codes.to(torch.uint8).view(weight.shape), scale, zero


def quantise_int4(weight: Float[Tensor, "*shape"], *, group: int = GROUP) -> Float[Tensor, "*shape"]:
    """A weight on its 4-bit grid; see ``int4_codes``."""
    codes, scale, zero = int4_codes(weight, group=group)
    values = (codes.view(-1, group).to(scale.dtype) - zero) * scale
    return values.view(weight.shape).to(weight.dtype)


def quantise_int4_input(
    x: Float[Tensor, "*shape"], *, group: int = GROUP, keep_top: int = KEEP_TOP
) -> Float[Tensor, "*shape"]:
    """A layer's input on a symmetric 4-bit grid, the largest values of each group kept as they are.

    Args:
        x: any shape.
        group: elements that share a scale; must divide their number.
        keep_top: how many of the largest absolute values of a group are kept, and left out of its scale.

    Raises:
        InputError: the group does not divide the number of elements, or nothing would be left to round.
    """
    rows, kept, values = _set_aside(x, group=group, keep_top=keep_top)
    most = rows.abs().amax(1, keepdim=True).clamp_(min=LEAST_INPUT)
    rows = (rows * (INPUT_STEPS / most)).round_().clamp_(-INPUT_STEPS - 1, INPUT_STEPS) * most / INPUT_STEPS
    return _put_back(rows, kept, values, like=x)


def quantise_fp4(
    x: Float[Tensor, "*shape"], *, group: int = GROUP, keep_top: int = KEEP_TOP
) -> Float[Tensor, "*shape"]:
    """Weights or inputs on the FP4 grid, the largest values of each group kept as they are.

    Args:
        x: any shape.
        group: elements that share a scale; must divide their number.
        keep_top: how many of the largest absolute values of a group are kept, and left out of its scale.

    Raises:
        InputError: the group does not divide the number of elements, or nothing would be left to round.
    """
    rows, kept, values = _set_aside(x, group=group, keep_top=keep_top)
    step = rows.abs().amax(1, keepdim=True).clamp_(min=LEAST_INPUT) / FP4_STEPS
    return _put_back((rows / step).round_() * step, kept, values, like=x)


def _grouped(x: Tensor, group: int) -> Tensor:
    """(g, group) in float32 at least."""
    if group < 1 or x.numel() % group:
        raise InputError(
            f"group: expected a divisor of the {x.numel()} elements of a tensor of shape {tuple(x.shape)}, got {group}"
        )
    wide = x if x.dtype == torch.float64 else x.float()
    return wide.reshape(-1, group)


def _set_aside(x: Tensor, *, group: int, keep_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Groups with their largest values set to zero, where those stood, and the values."""
    rows = _grouped(x, group)
    if not 0 <= keep_top < group:
        raise InputError(f"keep_top: expected a number in [0, {group}), got {keep_top!r}")
    kept = rows.abs().topk(keep_top, dim=1).indices
    return rows.scatter(1, kept, 0.0), kept, rows.gather(1, kept)


def _put_back(rows: Tensor, kept: Tensor, values: Tensor, *, like: Tensor) -> Tensor:
    return rows.scatter_(1, kept, values).view(like.shape).to(like.dtype)
