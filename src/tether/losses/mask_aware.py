"""An image tower that knows how well a mask fits, and stays near what it was (MAFT+)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, Positive, checked
from tether.losses.boxes import Over, share
from tether.losses.masks import masks_at, true_masks

IOU_EPS, RANGE_EPS = 1e-7, 1e-8
"""Added to the union, and to the range of an IoU over masks, in the release."""


def soft_iou(mask_logits: Float[Tensor, "b q h w"], masks: Tensor) -> Float[Tensor, "b t q"]:
    """IoU of true masks with predicted ones as probabilities, without gradient, in float32 or wider.

    Args:
        mask_logits: of the predicted ones.
        masks: (b, t, H, W) true ones of any size; another one is brought to that of the logits, as shares.

    Raises:
        InputError: shapes that do not fit.
    """
    if mask_logits.ndim != 4 or masks.ndim != 4 or len(mask_logits) != len(masks):
        raise InputError(
            f"expected mask_logits (b, q, h, w) and masks (b, t, h, w), got {tuple(mask_logits.shape)} and "
            f"{tuple(masks.shape)}"
        )
    with torch.no_grad(), torch.autocast(mask_logits.device.type, enabled=False):
        sure = mask_logits.to(torch.promote_types(mask_logits.dtype, torch.float32)).sigmoid().flatten(2)
        goal = masks_at(masks, (mask_logits.shape[2], mask_logits.shape[3])).to(sure.dtype).flatten(2)
        shared = goal @ sure.mT
        union = goal.sum(dim=2)[..., None] + sure.sum(dim=2)[:, None] - shared
        return shared / (union + IOU_EPS)


def relative_iou(iou: Float[Tensor, "b t q"]) -> Float[Tensor, "b t q"]:
    """Each true mask's IoUs stretched to 0..1 over the predicted ones; 0 where all are equal."""
    least = iou.amin(dim=2, keepdim=True)
    return (iou - least) / (iou.amax(dim=2, keepdim=True) - least + RANGE_EPS)


@checked
def mask_aware_loss(
    logits: Float[Tensor, "b q c"],
    mask_logits: Float[Tensor, "b q h w"],
    masks: Tensor,
    labels: Integer[Tensor, "b t"],
    *,
    valid: Bool[Tensor, "b t"] | None = None,
    beta: Positive = 1.0,
    over: Over = "process",
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """Smooth L1 between each predicted mask's probability of a true mask's class and how well it fits that mask.

    The fit is the IoU stretched to 0..1 over the predicted masks (``relative_iou``); it has no gradient, and so masks
    have none. The mean is over true masks and predicted ones.

    Source: MAFT+ (arXiv 2408.00744), after MAFT (2310.00240). Its release fails on a batch without a true mask, where
    the loss is 0 here.

    Args:
        logits: of each predicted mask: c - 1 classes and, last, none, which is left out of the softmax.
        mask_logits: of the predicted masks.
        masks: (b, t, H, W) true ones, of any size.
        labels: class of each true mask.
        valid: where there is one; None takes all that are not empty.
        beta: below it the loss is quadratic.
        over: what the sum is divided by: this process's true masks, or those of all.
        gather: counts of all processes.

    Raises:
        InputError: shapes that do not fit, or on the CPU a class that there is not.

    Example:
        >>> import torch
        >>> from tether.losses.mask_aware import mask_aware_loss
        >>> masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        >>> masks[..., :2] = True
        >>> proposals = torch.stack([masks[0, 0], ~masks[0, 0]])[None] * 40.0 - 20.0
        >>> logits = torch.tensor([[[9.0, -9.0, 0.0], [-9.0, 9.0, 0.0]]])  # the mask that fits has the right class
        >>> round(mask_aware_loss(logits, proposals, masks, torch.tensor([[0]])).item(), 4)
        0.0
    """
    if logits.ndim != 3 or logits.shape[:2] != mask_logits.shape[:2] or logits.shape[2] < 2:
        raise InputError(
            f"logits: expected {tuple(mask_logits.shape[:2])} by at least one class and none, got {tuple(logits.shape)}"
        )
    classes = logits.shape[2] - 1
    some = true_masks(masks, labels, valid=valid, classes=classes)
    goal = relative_iou(soft_iou(mask_logits, masks))[some]
    with torch.autocast(logits.device.type, enabled=False):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        likely = wide[..., :classes].softmax(dim=2).mT
        image, _ = some.nonzero(as_tuple=True)
        said = likely[image, labels[some].long()]
        total = F.smooth_l1_loss(said, goal.to(said.dtype), beta=beta, reduction="none").mean(dim=1).sum()
        return total / share(some.sum(), like=total, over=over, gather=gather)


@checked
def pooled_sums(
    features: Float[Tensor, "b c h w"],
    *,
    scales: Annotated[Sequence[Count], MinLen(1)] = (1, 2, 4),
    match_official: bool = False,
) -> Float[Tensor, "b n"]:
    """Sums over rows and over columns of a map that is pooled to s x s, for each scale s (POD, arXiv 2004.13513).

    A map that is no square is first enlarged to one of its longer side.

    Args:
        features: the map.
        scales: how many parts each side is cut into; what is left over of a side that it does not divide is left out.
        match_official: take the parts' size from the width that the map had before it was enlarged, as the release
            does; of a map that is higher than wide it then pools into more parts than s.

    Raises:
        InputError: an empty map, or a scale above its side.
    """
    if features.ndim != 4 or 0 in features.shape:
        raise InputError(f"features: expected (b, c, rows, columns), got {tuple(features.shape)}")
    height, width = features.shape[2:]
    side = max(height, width)
    whole = width if match_official else side
    if max(scales) > whole:
        raise InputError(f"scales: expected at most {whole}, the side of the map, got {max(scales)}")
    if height != width:
        features = F.interpolate(features, (side, side), mode="bilinear")
    found = []
    for scale in scales:
        pooled = F.avg_pool2d(features, whole // scale)
        found += [pooled.sum(dim=2).flatten(1), pooled.sum(dim=3).flatten(1)]
    return torch.cat(found, dim=1)


@checked
def compensation_loss(
    features: Float[Tensor, "b c h w"],
    frozen: Float[Tensor, "b c h w"],
    *,
    scales: Annotated[Sequence[Count], MinLen(1)] = (1, 2, 4),
    match_official: bool = False,
) -> Float[Tensor, ""]:
    """Smooth L1 between the ``pooled_sums`` of two maps, of which what is below 0 is left out; the mean over all.

    Source: MAFT+ (arXiv 2408.00744), whose weight for it is 0.1.

    Args:
        features: of the tower that learns.
        frozen: of its frozen copy; it gets no gradient.
        scales: see ``pooled_sums``.
        match_official: likewise.

    Raises:
        InputError: maps of two shapes, or as ``pooled_sums``.
    """
    if features.shape != frozen.shape:
        raise InputError(f"frozen: expected {tuple(features.shape)}, got {tuple(frozen.shape)}")
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        own, before = (
            pooled_sums(one.to(dtype).relu(), scales=scales, match_official=match_official)
            for one in (features, frozen.detach())
        )
        return F.smooth_l1_loss(own, before)
