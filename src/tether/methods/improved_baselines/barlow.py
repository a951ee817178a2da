"""Two sides whose channels agree one by one and with no others: a loss without negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, checked


@checked
def barlow_loss(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    *,
    off_diagonal: NonNegative = 0.005,
    scale: NonNegative = 0.025,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """How far the cross-correlation of two sides' channels is from the identity.

    With ``c = image.T @ text / b`` over all processes' rows it is ``scale * (sum_i (c_ii - 1)^2 + off_diagonal *
    sum_{i != j} c_ij^2)``. The d x d matrix is only made where it is the smaller way.

    Args:
        image: rows whose channels have mean 0 and variance 1 over the batch, as a last batch norm makes them; row i
            and ``text[i]`` are one pair.
        text: likewise.
        off_diagonal: weight of the correlations that should be 0.
        scale: of the whole.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: an empty batch, or other rows of images than of texts.

    Source: BarLIP of arXiv 2305.08675, after Barlow Twins (arXiv 2103.03230). The released code divides by the rows of
    one process; this is the loss of the whole batch.

    Example:
        >>> import torch
        >>> from tether.methods.improved_baselines import barlow_loss
        >>> rows = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> barlow_loss(rows, rows).item()
        0.0
    """
    if image.shape != text.shape or image.ndim != 2 or not len(image):
        raise InputError(f"expected as many images as texts, got {tuple(image.shape)} and {tuple(text.shape)}")
    gather = gather or LOCAL
    with torch.autocast(image.device.type, enabled=False):
        left, right = (gather(rows.to(torch.promote_types(rows.dtype, torch.float32))) for rows in (image, text))
        count, width = left.shape
        diagonal = (left * right).sum(dim=0) / count
        if count < width:
            squares = ((left @ left.T) * (right @ right.T)).sum() / count**2
        else:
            squares = (left.T @ right / count).square().sum()
        others = squares - diagonal.square().sum()
        return scale * ((diagonal - 1).square().sum() + off_diagonal * others)
