"""Predicted masks against true ones: focal, dice, cross-entropy of pixels and pairs, matching, and their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, checked
from tether.losses.boxes import Over, share
from tether.losses.matching import cheapest_pairs

Smooth = Annotated[float, Ge(0), Lt(0.5)]


@checked
def focal_loss(
    probabilities: Float[Tensor, "b c ..."],
    target: Integer[Tensor, "b ..."],
    *,
    gamma: NonNegative = 2.0,
    smooth: Smooth = 1e-5,
) -> Float[Tensor, ""]:
    """``-(1 - p)^gamma ln p`` of each pixel's own class, the mean over all pixels (arXiv 1708.02002).

    It takes probabilities, not logits, as AnomalyCLIP's (arXiv 2310.18961) does. p is the sum over classes of a
    smoothed target times probability, plus ``smooth``; the smoothed target is ``1 - smooth`` for the pixel's class and
    ``smooth / (c - 1)`` for the others. No class has a weight.

    Args:
        probabilities: of c classes, 0 to 1, for pixels of any number of axes.
        target: class of each pixel.
        gamma: how little pixels count that are right already.
        smooth: see above.

    Raises:
        InputError: shapes that do not fit, fewer than two classes, or on the CPU a class that there is not.
    """
    classes = probabilities.shape[1] if probabilities.ndim > 1 else 0
    if classes < 2 or target.shape != (len(probabilities), *probabilities.shape[2:]):
        raise InputError(
            f"expected probabilities (b, c, ...) of 2 classes or more and target (b, ...), got "
            f"{tuple(probabilities.shape)} and {tuple(target.shape)}"
        )
    _check_classes(target, classes, name="target")
    wide = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    hot = F.one_hot(target.long(), classes).movedim(-1, 1).to(wide.dtype)
    own = (hot.clamp(smooth / (classes - 1), 1 - smooth) * wide).sum(dim=1) + smooth
    return -((1 - own).abs().pow(gamma) * own.log()).mean()


@checked
def dice_loss(
    probabilities: Float[Tensor, "n ..."], target: Tensor, *, smooth: NonNegative = 1.0
) -> Float[Tensor, " n"]:
    """``1 - (2 sum pg + smooth) / (sum p + sum g + smooth)`` of each mask (arXiv 1606.04797).

    AnomalyCLIP takes the mean over images; Mask2Former the sum over masks by their number.

    Args:
        probabilities: 0 to 1, of pixels of any number of axes.
        target: of the same shape: bool, or numbers 0 to 1.
        smooth: keeps empty masks finite.

    Raises:
        InputError: another shape, or no axis of pixels.
    """
    if probabilities.ndim < 2 or target.shape != probabilities.shape:
        raise InputError(
            f"expected probabilities (n, ...) and a target of this shape, got {tuple(probabilities.shape)} and "
            f"{tuple(target.shape)}"
        )
    wide = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).flatten(1)
    goal = target.to(wide.dtype).flatten(1)
    return 1 - (2 * (wide * goal).sum(dim=1) + smooth) / (wide.sum(dim=1) + goal.sum(dim=1) + smooth)


@dataclass(frozen=True, slots=True)
class MaskTerms:
    """What ``mask_loss`` gives; all 0-d, the parts before their weights.

    Attributes:
        total: all parts, weighed.
        label: cross-entropy of each prediction's class.
        bce: cross-entropy of pixels, the mean over matched masks.
        dice: likewise.
        iou: mean IoU of matched masks, cut at a probability of a half, without gradient; 0 where there is none.
    """

    total: Float[Tensor, ""]
    label: Float[Tensor, ""]
    bce: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    iou: Float[Tensor, ""]


def true_masks(
    masks: Tensor, labels: Integer[Tensor, "b t"], *, valid: Bool[Tensor, "b t"] | None, classes: int
) -> Bool[Tensor, "b t"]:
    """Which masks are some: those of ``valid`` that are not empty.

    Raises:
        InputError: shapes that do not fit, or on the CPU a valid mask whose class there is not.
    """
    if masks.ndim != 4 or labels.shape != masks.shape[:2] or (valid is not None and valid.shape != labels.shape):
        raise InputError(
            f"expected masks (b, t, h, w) and labels (b, t), got {tuple(masks.shape)}, {tuple(labels.shape)}"
        )
    some = masks.flatten(2).any(dim=2)
    some = some if valid is None else some & valid
    _check_classes(labels, classes, name="labels", among=some)
    return some


@checked
def mask_cost(
    logits: Float[Tensor, "b q h w"],
    masks: Tensor,
    *,
    class_logits: Float[Tensor, "b q c"],
    labels: Integer[Tensor, "b t"],
    label: NonNegative = 2.0,
    bce: NonNegative = 5.0,
    dice: NonNegative = 5.0,
) -> Float[Tensor, "b q t"]:
    """``-label p(class) + bce BCE + dice dice`` of every pair of an image, without gradient, in float32 or wider.

    Args:
        logits: of predicted masks.
        masks: (b, t, h, w) true ones of the same size: bool, or shares 0 to 1 of each pixel.
        class_logits: of the predictions' classes, whatever else stands behind them.
        labels: class of each true mask; what it is where there is none does not matter.
        label: weight of the class's probability.
        bce: weight of the mean cross-entropy of pixels.
        dice: weight of ``dice_loss``.

    Raises:
        InputError: shapes that do not fit.
    """
    _check_shapes(logits, masks, class_logits, labels)
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2)
        goal = masks.to(wide.dtype).flatten(2)
        sure = wide.sigmoid()
        pixels = F.softplus(wide).mean(dim=2)[..., None] - wide @ goal.mT / wide.shape[2]
        overlap = 2 * sure @ goal.mT + 1
        apart = 1 - overlap / (sure.sum(dim=2)[..., None] + goal.sum(dim=2)[:, None] + 1)
        likely = class_logits.to(wide.dtype).softmax(dim=2)
        numbers = labels.long().clamp(0, likely.shape[2] - 1)[:, None].expand(-1, likely.shape[1], -1)
        return bce * pixels + dice * apart - label * likely.gather(2, numbers)


@checked
def match_masks(
    logits: Float[Tensor, "b q h w"],
    masks: Tensor,
    *,
    class_logits: Float[Tensor, "b q c"],
    labels: Integer[Tensor, "b t"],
    valid: Bool[Tensor, "b t"] | None = None,
    label: NonNegative = 2.0,
    bce: NonNegative = 5.0,
    dice: NonNegative = 5.0,
) -> Int[Tensor, "b q"]:
    """The number of the mask that each prediction is matched with, or -1: an image's cheapest pairs by ``mask_cost``.

    Args:
        logits: see ``mask_cost``.
        masks: see ``mask_cost``.
        class_logits: see ``mask_cost``.
        labels: see ``mask_cost``.
        valid: where there is a mask; None takes all. Empty ones are matched with nothing.
        label: see ``mask_cost``.
        bce: see ``mask_cost``.
        dice: see ``mask_cost``.

    Raises:
        InputError: shapes that do not fit, or on the CPU a class that there is not.

    Example:
        >>> import torch
        >>> from tether.losses.masks import match_masks
        >>> masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
        >>> masks[0, 0, :2], masks[0, 1, 2:] = True, True
        >>> logits = torch.stack([masks[0, 1], masks[0, 0]])[None] * 8.0 - 4.0
        >>> match_masks(logits, masks, class_logits=torch.zeros(1, 2, 3), labels=torch.tensor([[0, 1]])).tolist()
        [[1, 0]]
    """
    some = true_masks(masks, labels, valid=valid, classes=class_logits.shape[-1])
    cost = mask_cost(logits, masks, class_logits=class_logits, labels=labels, label=label, bce=bce, dice=dice)
    return cheapest_pairs(cost, valid=some)


@checked
def mask_loss(
    logits: Float[Tensor, "b q h w"],
    masks: Tensor,
    *,
    class_logits: Float[Tensor, "b q c"],
    labels: Integer[Tensor, "b t"],
    valid: Bool[Tensor, "b t"] | None = None,
    match: Int[Tensor, "b q"] | None = None,
    label: NonNegative = 2.0,
    bce: NonNegative = 5.0,
    dice: NonNegative = 5.0,
    no_object: NonNegative = 0.1,
    over: Over = "processes",
    gather: Gather = LOCAL,
) -> MaskTerms:
    """What Mask2Former (arXiv 2112.01527) asks of a decoder layer: classes of all predictions, pixels of matched ones.

    An image without a mask has the class "no object" for all its predictions. The release looks at points drawn where
    the mask is unsure; here all pixels count.

    Args:
        logits: of predicted masks.
        masks: see ``mask_cost``.
        class_logits: of c - 1 classes and, last, of no object.
        labels: class of each true mask.
        valid: where there is a mask; None takes all.
        match: as ``match_masks`` gives it; None matches here, with these weights.
        label: weight of the cross-entropy of classes.
        bce: weight of that of pixels.
        dice: weight of ``dice_loss``.
        no_object: weight of that class within the cross-entropy.
        over: what sums over masks are divided by.
        gather: counts of all processes.

    Raises:
        InputError: shapes that do not fit, or on the CPU a class that there is not.
    """
    nothing = class_logits.shape[-1] - 1
    some = true_masks(masks, labels, valid=valid, classes=nothing)
    if match is None:
        cost = mask_cost(logits, masks, class_logits=class_logits, labels=labels, label=label, bce=bce, dice=dice)
        match = cheapest_pairs(cost, valid=some)
    _check_shapes(logits, masks, class_logits, labels)
    if match.shape != logits.shape[:2]:
        raise InputError(f"match: expected {tuple(logits.shape[:2])}, got {tuple(match.shape)}")
    image, query = (match >= 0).nonzero(as_tuple=True)
    with torch.autocast(logits.device.type, enabled=False):
        own = logits[image, query]
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        goal = masks[image, match[image, query]].to(own.dtype)
        classes = torch.full_like(match, nothing).index_put((image, query), labels.long()[image, match[image, query]])
        wide = class_logits.to(own.dtype).flatten(0, 1)
        weight = torch.ones(nothing + 1, dtype=wide.dtype, device=wide.device)
        weight[nothing] = no_object
        said = F.cross_entropy(wide, classes.flatten(), weight=weight, reduction="sum")
        said = said / share(weight[classes].sum(), like=own, over=over, gather=gather)
        count = share(some.sum(), like=own, over=over, gather=gather)
        pixels = F.binary_cross_entropy_with_logits(own, goal, reduction="none").flatten(1).mean(dim=1).sum() / count
        apart = dice_loss(own.sigmoid(), goal).sum() / count
        cut, true = own.detach() > 0, goal > 0.5
        iou = (cut & true).flatten(1).sum(1) / (cut | true).flatten(1).sum(1).clamp_min(1)
        total = label * said + bce * pixels + dice * apart
        return MaskTerms(total, said, pixels, apart, iou.to(own.dtype).sum() / max(1, len(iou)))


def masks_at(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (b, t, h, w) at another size, as the share 0 to 1 of each new pixel; at their own as they are."""
    return masks if masks.shape[2:] == size else F.adaptive_avg_pool2d(masks.float(), size)


def _check_classes(numbers: Tensor, classes: int, *, name: str, among: Tensor | None = None) -> None:
    """On the CPU alone: an accelerator would have to be waited for."""
    if numbers.device.type == "cpu":
        strange = (numbers < 0) | (numbers >= classes)
        strange = strange if among is None else strange & among
        if strange.any():
            raise InputError(f"{name}: expected classes 0 to {classes - 1}, got {int(numbers[strange][0])}")


def _check_shapes(logits: Tensor, masks: Tensor, class_logits: Tensor, labels: Tensor) -> None:
    fits = (
        logits.ndim == masks.ndim == 4
        and class_logits.ndim == 3
        and class_logits.shape[:2] == logits.shape[:2]
        and masks.shape == (len(logits), masks.shape[1], *logits.shape[2:])
        and labels.shape == masks.shape[:2]
    )
    if not fits:
        raise InputError(
            "expected logits (b, q, h, w), masks (b, t, h, w), class_logits (b, q, c) and labels (b, t), got "
            f"{tuple(logits.shape)}, {tuple(masks.shape)}, {tuple(class_logits.shape)} and {tuple(labels.shape)}"
        )
