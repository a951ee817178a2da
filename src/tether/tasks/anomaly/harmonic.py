"""Scores of windows that overlap as a map of patches: harmonic means, which follow the lowest score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked


@checked
def harmonic_mean(maps: Sequence[Float[Tensor, "*shape"]], *, eps: NonNegative = 0.0) -> Float[Tensor, "*shape"]:
    """N / sum(1 / s) of n maps of one shape, place by place; 0 where one of them is 0, or not a number.

    Args:
        maps: scores of 0 or more, one at least.
        eps: scores below it count as this much, so that the mean has a gradient there; AdaptCLIP's is 1e-12.

    Raises:
        InputError: no map.

    Example:
        >>> import torch
        >>> from tether.tasks.anomaly.harmonic import harmonic_mean
        >>> harmonic_mean([torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0])]).tolist()
        [0.6666666865348816, 0.0]
    """
    if not maps:
        raise InputError("maps: expected one at least, got none")
    total = torch.stack(list(maps)).clamp(min=eps).reciprocal().sum(dim=0)
    return (len(maps) / total).nan_to_num(nan=0.0, posinf=0.0)


def harmonic_map(
    scores: Float[Tensor, "b n"], *, masks: Int[Tensor, "k n"], grid: tuple[int, int]
) -> Float[Tensor, "b r c"]:
    """The harmonic mean, at each patch, of the scores of the windows that cover it; 0 where none does.

    Source: arXiv 2303.14814, section 4.2; a window with score 0 makes its patches 0.

    Args:
        scores: of windows, 0 or more.
        masks: the patches of each window, see ``methods.winclip.token_windows.window_masks``.
        grid: rows and columns of patches.

    Example:
        >>> import torch
        >>> from tether.tasks.anomaly.harmonic import harmonic_map
        >>> masks = torch.arange(3)[None]  # one patch in each window
        >>> harmonic_map(torch.tensor([[1.0, 0.5, 0.0]]), masks=masks, grid=(1, 3)).tolist()
        [[[1.0, 0.5, 0.0]]]
    """
    side, windows = masks.shape
    if scores.ndim != 2 or scores.shape[1] != windows:
        raise InputError(f"scores: expected (b, {windows}), one for each window, got {tuple(scores.shape)}")
    places = masks.flatten().to(scores.device)
    total = scores.new_zeros(len(scores), grid[0] * grid[1])
    total.index_add_(1, places, scores.reciprocal().repeat(1, side))
    counts = torch.bincount(places, minlength=total.shape[1]).to(scores)
    return (counts / total).nan_to_num(nan=0.0, posinf=0.0).unflatten(1, grid)
