"""DCLIP's loss: an image tower learns its pairs, and what a teacher that saw the captions makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tether.core.gather import Gather
from tether.core.ranges import Share, checked
from tether.core.types import Features
from tether.losses.checks import unit_rows
from tether.losses.clip import clip_loss
from tether.losses.closeness import closeness_loss


@dataclass(frozen=True, slots=True)
class DclipTerms:
    """What ``dclip_loss`` gives; all 0-d.

    Attributes:
        total: the two, weighed.
        contrastive: CLIP's loss, before its weight.
        cosine: mean over rows of one minus the cosine with the teacher, before its weight.
    """

    total: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]
    cosine: Float[Tensor, ""]


@checked
def dclip_loss(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    alpha: Share = 0.5,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> DclipTerms:
    """``alpha * CLIP(image, text) + (1 - alpha) * mean(1 - cos(image, teacher))`` (arXiv 2505.21549).

    The paper's alpha is not known.

    Args:
        image: the student's rows, of any length.
        text: rows of the captions, which the frozen text tower gives.
        teacher: the teacher's rows of the images, without gradient.
        logit_scale: multiplier of the cosines, already exponentiated.
        alpha: share of CLIP's loss; 1 is plain fine-tuning, 0 the distillation alone.
        labels: as in ``clip_loss``.
        gather: as in ``clip_loss``.

    Raises:
        InputError: not three equal shapes (b, d), or an empty batch.

    Example:
        >>> import torch
        >>> from tether.methods.dclip import dclip_loss
        >>> rows = torch.eye(3)
        >>> round(dclip_loss(rows, rows, rows.roll(1, dims=1), 100.0).total.item(), 4)
        0.5
    """
    unit = unit_rows(Features(image)), unit_rows(Features(text))
    contrastive = clip_loss(*unit, logit_scale, labels=labels, gather=gather)
    cosine = closeness_loss(image, teacher)
    return DclipTerms(alpha * contrastive + (1 - alpha) * cosine, contrastive, cosine)
