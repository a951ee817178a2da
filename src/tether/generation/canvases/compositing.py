"""Colours laid over each other in order, pixel by pixel, with gradient to colours and to how much each one covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

Level = tuple[int, int]
"""From where to where in the list of pairs."""


def over(
    cover: Float[Tensor, " m"],
    color: Float[Tensor, "m 3"],
    *,
    pixel: Int[Tensor, " m"],
    levels: Sequence[Level],
    ground: Float[Tensor, "p 3"],
) -> Float[Tensor, "p 3"]:
    """Lay m spots of colour over a ground: ground <- cover * color + (1 - cover) * ground, level after level.

    Only the pixels that a thing touches are listed, so a drawing of small things costs their area and not that of the
    whole image for each. What lay under a spot is kept for the gradient, three numbers each.

    Args:
        cover: 0 leaves the ground as it is, 1 hides it.
        color: of each spot.
        pixel: which of the p pixels it lies on.
        levels: parts of the list in order; within one no pixel comes twice.
        ground: p pixels; it gets no gradient.

    Example:
        >>> import torch
        >>> from tether.generation.canvases.compositing import over
        >>> red, white = torch.tensor([[1.0, 0, 0]]), torch.ones(2, 3)
        >>> over(torch.tensor([0.5]), red, pixel=torch.tensor([1]), levels=[(0, 1)], ground=white)[1].tolist()
        [1.0, 0.5, 0.5]
    """
    return _Over.apply(cover, color, pixel, tuple(levels), ground)


def levels_of(pixel: Int[Tensor, " m"]) -> tuple[Int[Tensor, " m"], list[Level]]:
    """An order of spots, and its levels: those that lie lowest on their pixel, then those over them, and so on.

    Args:
        pixel: of spots from the lowest to the highest.
    """
    if not len(pixel):
        return pixel, []
    by_pixel = torch.argsort(pixel, stable=True)
    _, counts = torch.unique_consecutive(pixel[by_pixel], return_counts=True)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    height = torch.empty_like(pixel)
    height[by_pixel] = torch.arange(len(pixel), device=pixel.device) - starts
    ends = torch.bincount(height).cumsum(0).tolist()
    return torch.argsort(height, stable=True), list(zip([0, *ends[:-1]], ends, strict=True))


class _Over(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cover: Tensor, color: Tensor, pixel: Tensor, levels: tuple[Level, ...], ground: Tensor
    ) -> Tensor:
        canvas, under = ground.clone(), torch.empty_like(color)
        for start, end in levels:
            where = pixel[start:end]
            old = canvas[where]
            under[start:end] = old
            canvas[where] = torch.lerp(old, color[start:end], cover[start:end, None])
        ctx.save_for_backward(cover, color, pixel, under)
        ctx.levels = levels
        return canvas

    @staticmethod
    @once_differentiable  # which loses the parameters' names
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        cover, color, pixel, under = ctx.saved_tensors
        grad, down = grad_outputs[0].clone(), torch.empty_like(color)
        for start, end in reversed(ctx.levels):
            where = pixel[start:end]
            arriving = grad[where]
            down[start:end] = arriving
            grad[where] = arriving * (1 - cover[start:end, None])
        return (down * (color - under)).sum(1), down * cover[:, None], None, None, None
