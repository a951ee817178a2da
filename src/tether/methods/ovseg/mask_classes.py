"""Classes of masks by two who name them, and of pixels by the masks that cover them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Share, checked


@checked
def combine(
    mask_probs: Float[Tensor, "q k"],
    clip_probs: Float[Tensor, "v k"],
    *,
    weight: Share = 0.7,
    valid: Bool[Tensor, " q"] | None = None,
) -> Float[Tensor, "q k"]:
    """What the finder of masks and CLIP say of them, as a geometric mean: ``mask ** (1 - weight) * clip ** weight``.

    A mask that CLIP was not shown keeps ``mask ** (1 - weight)``. As in the released code, a weight of 0 is no mean but
    CLIP alone, and a mask that it was not shown gets 0.

    Source: OVSeg (arXiv 2210.04150), released code.

    Args:
        mask_probs: of each mask for each class, not negative.
        clip_probs: likewise, of the valid masks.
        weight: of CLIP; the paper has 0.7 or 0.6 by data set.
        valid: which masks CLIP was shown; None is all.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.methods.ovseg.mask_classes import combine
        >>> combine(torch.tensor([[0.64, 0.36]]), torch.tensor([[0.36, 0.64]]), weight=0.5).round(decimals=2).tolist()
        [[0.47999998927116394, 0.47999998927116394]]
    """
    if valid is None:
        valid = torch.ones(len(mask_probs), dtype=torch.bool, device=mask_probs.device)
    if valid.dtype != torch.bool or valid.shape != mask_probs.shape[:1]:
        raise InputError(f"valid: expected bool ({len(mask_probs)},), got {valid.dtype} {tuple(valid.shape)}")
    wanted = (int(valid.sum()), *mask_probs.shape[1:])
    if tuple(clip_probs.shape) != wanted:
        raise InputError(f"clip_probs: expected {wanted}, a row for each valid mask, got {tuple(clip_probs.shape)}")
    if weight == 0:
        return torch.zeros_like(mask_probs).index_put((valid,), clip_probs)
    shown = torch.ones_like(mask_probs).index_put((valid,), clip_probs)
    return mask_probs ** (1 - weight) * shown**weight


def pixel_scores(class_probs: Float[Tensor, "q k"], masks: Float[Tensor, "q h w"]) -> Float[Tensor, "k h w"]:
    """Each class at each pixel: the sum over masks of the class's probability times the mask there.

    Args:
        class_probs: of each mask.
        masks: 0 to 1.
    """
    if len(class_probs) != len(masks):
        raise InputError(f"masks: expected {len(class_probs)}, one for each row of class_probs, got {len(masks)}")
    return torch.einsum("qk,qhw->khw", class_probs, masks.to(class_probs.dtype))
