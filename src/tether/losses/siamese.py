"""A prediction that turns to a target which rests: agreement without negatives."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.losses.rocket import unit


def siamese_loss(prediction: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """``2 - 2 * mean cosine`` of a prediction and a target, which gets no gradient.

    Args:
        prediction: what a predictor makes of one side, rows of any length.
        target: the other side's projection: of the same weights (SiamLIP), or of weights that trail them (BYOLIP).

    Raises:
        InputError: an empty batch, or rows that do not fit each other.

    Source: SiamLIP and BYOLIP of arXiv 2305.08675, after SimSiam (arXiv 2011.10566) and BYOL (arXiv 2006.07733).

    Example:
        >>> import torch
        >>> from tether.losses import siamese_loss
        >>> siamese_loss(torch.eye(3), 2 * torch.eye(3)).item()
        0.0
    """
    if prediction.shape != target.shape or prediction.ndim != 2 or not len(prediction):
        raise InputError(
            f"expected as many predictions as targets, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    return 2 - 2 * (unit(prediction) * unit(target.detach())).sum(dim=1).mean()
