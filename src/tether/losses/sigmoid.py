"""The pairwise sigmoid loss without the B x B matrix, in tiles like InfoNCE."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.losses.infonce import (
    class_means,
    label_classes,
    pair_entries,
    refuse_second_order,
    scale_like,
    tile_rows,
    widen,
)


def sigmoid_pairs(
    left: Float[Tensor, "b d"],
    right: Float[Tensor, "n d"],
    *,
    scale: Float[Tensor, ""] | float,
    bias: Float[Tensor, ""] | float,
    offset: int = 0,
    left_labels: Int[Tensor, " b"] | None = None,
    right_labels: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " b"]:
    """``-sum_j log sigmoid(y_ij z_ij)`` of each left row, with ``z = scale * left @ right.T + bias``.

    ``y`` is 1 for the pair (i, offset + i) and, with labels, for every right row of the same label, else -1.
    Half-precision rows are widened to float32; float64 stays. First-order gradients only.
    """
    left, right = widen(left, right)
    if right.shape[0] < offset + left.shape[0]:
        raise InputError(f"expected at least {offset} + {left.shape[0]} right rows, got {right.shape[0]}")
    if (left_labels is None) != (right_labels is None):
        raise InputError("left_labels and right_labels come together or not at all")
    scale, bias = scale_like(scale, rows=left), scale_like(bias, rows=left)
    losses = _TiledSigmoid.apply(left, right, scale, bias, offset)
    if left_labels is None or right_labels is None:
        return losses
    # A pair that turns from negative to positive changes its term by exactly -z, so sums over a label suffice.
    classes = label_classes(torch.cat([left_labels, right_labels]))
    own, theirs = classes[: len(left)], classes[len(left) :]
    sizes = left.new_zeros(len(classes)).index_add(0, theirs, left.new_ones(len(theirs)))[own]
    others = class_means(right, theirs, len(classes))[own] * sizes[:, None] - right[offset : offset + len(left)]
    return losses - scale * (left * others).sum(dim=1) - bias * (sizes - 1)


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: Tensor, bias: Tensor, offset: int) -> Tensor:
        with torch.autocast(left.device.type, enabled=False):
            rows, width = left.shape[0], right.shape[0]
            height = tile_rows(rows, width, dtype=left.dtype, device=left.device)
            buffer, losses = left.new_empty(height, width), left.new_empty(rows)
            for start in range(0, rows, height):
                stop = min(start + height, rows)
                logits = torch.mm(left[start:stop] * scale, right.T, out=buffer[: stop - start]).add_(bias).neg_()
                pair_entries(logits, start=start, count=rows, offset=offset).neg_()
                losses[start:stop] = F.logsigmoid(logits).sum(dim=1).neg_()
        ctx.save_for_backward(left, right, scale, bias)
        ctx.offset = offset
        return losses

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        (grad,) = grad_outputs
        left, right, scale, bias = ctx.saved_tensors
        needs_left, needs_right, needs_scale, needs_bias = ctx.needs_input_grad[:4]
        with torch.autocast(left.device.type, enabled=False):
            rows, width = left.shape[0], right.shape[0]
            height = tile_rows(rows, width, dtype=left.dtype, device=left.device)
            buffer = left.new_empty(height, width)
            grad_left = torch.empty_like(left) if needs_left or needs_scale else None
            grad_right = torch.zeros_like(right) if needs_right else None
            grad_scale, grad_bias = torch.zeros_like(scale), torch.zeros_like(bias)
            for start in range(0, rows, height):
                stop = min(start + height, rows)
                tile = torch.mm(left[start:stop] * scale, right.T, out=buffer[: stop - start]).add_(bias)
                paired = pair_entries(tile, start=start, count=rows, offset=ctx.offset)
                paired.neg_()
                tile.sigmoid_()
                paired.neg_()
                tile.mul_(grad[start:stop, None])
                if needs_bias:
                    grad_bias += tile.sum()
                if grad_left is not None:
                    torch.mm(tile, right, out=grad_left[start:stop])
                    grad_scale += (grad_left[start:stop] * left[start:stop]).sum()
                if grad_right is not None:
                    grad_right.addmm_(tile.T, left[start:stop])
            for part in (grad_left, grad_right):
                if part is not None:
                    part.mul_(scale)
        return (
            grad_left if needs_left else None,
            grad_right,
            grad_scale if needs_scale else None,
            grad_bias if needs_bias else None,
            None,
        )
