"""What texts must say of images with defects: which image has one, and where."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked
from tether.losses.masks import dice_loss, focal_loss


@dataclass(frozen=True, slots=True)
class DefectTerms:
    """What ``defect_loss`` gives; all 0-d, the parts before their weight and, of maps, summed over them.

    Attributes:
        total: all parts, weighed.
        image: cross-entropy of images.
        focal: of pixels.
        defective: dice of what is called defective with the mask.
        normal: dice of what is called normal with the rest.
    """

    total: Float[Tensor, ""]
    image: Float[Tensor, ""]
    focal: Float[Tensor, ""]
    defective: Float[Tensor, ""]
    normal: Float[Tensor, ""]


@checked
def defect_loss(
    logits: Float[Tensor, "b 2"],
    maps: Float[Tensor, "l b 2 h w"],
    *,
    labels: Integer[Tensor, " b"],
    masks: Tensor,
    masked: Bool[Tensor, " b"] | None = None,
    pixels: NonNegative = 4.0,
) -> DefectTerms:
    """``CE + pixels * sum over maps of (focal + dice of the defective + dice of the normal)``.

    Source: AnomalyCLIP (arXiv 2310.18961), section 3.4, and its released code; AdaptCLIP (2505.09926) has
    ``pixels=1``. Focal is that of probabilities with gamma 2, dice the mean over images, both of ``losses.masks``.

    Args:
        logits: of images, normal and defective.
        maps: probabilities of the two for each pixel, l maps of each image.
        labels: 1 for a defective image.
        masks: (b, h, w) above 0.5 where it is; of another size they are resized to the nearest.
        masked: images whose mask is known; of the others only the image counts. None takes all.
        pixels: weight of the terms of maps.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.losses.defects import defect_loss
        >>> masks = torch.zeros(2, 4, 4)
        >>> masks[1, :2] = 1
        >>> right = torch.stack([1 - masks, masks], dim=1)[None].clamp(0.01, 0.99)
        >>> labels, logits = torch.tensor([0, 1]), torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
        >>> terms = [defect_loss(logits, maps, labels=labels, masks=masks) for maps in (right, 1 - right)]
        >>> bool(terms[0].total < terms[1].total), bool(terms[0].image == terms[1].image)
        (True, True)
    """
    count = len(logits)
    fits = maps.ndim == 5 and maps.shape[1:3] == (count, 2) and masks.ndim == 3 and len(masks) == count
    if logits.shape != (count, 2) or not fits or labels.shape != (count,):
        raise InputError(
            "expected logits (b, 2), maps (l, b, 2, h, w), labels (b,) and masks (b, h, w), got "
            f"{tuple(logits.shape)}, {tuple(maps.shape)}, {tuple(labels.shape)} and {tuple(masks.shape)}"
        )
    if masked is not None and masked.shape != labels.shape:
        raise InputError(f"masked: expected {tuple(labels.shape)}, got {tuple(masked.shape)}")
    size = (int(maps.shape[3]), int(maps.shape[4]))
    goal = masks.to(maps.dtype)
    goal = goal if masks.shape[1:] == size else F.interpolate(goal[:, None], size, mode="nearest")[:, 0]
    goal = goal > 0.5
    image = F.cross_entropy(logits, labels.long())
    focal = defective = normal = image.new_zeros(())
    if masked is not None:
        maps, goal = maps[:, masked], goal[masked]
    for one in maps if len(goal) else ():
        focal = focal + focal_loss(one, goal.long())
        defective = defective + dice_loss(one[:, 1], goal).mean()
        normal = normal + dice_loss(one[:, 0], ~goal).mean()
    return DefectTerms(image + pixels * (focal + defective + normal), image, focal, defective, normal)
