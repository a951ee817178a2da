"""ParaCLIP's loss: an image finds the second paraphrase of its caption, and caption and paraphrases stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, checked
from tether.losses.clip import clip_loss

LEAST_ROWS = 2
"""Of a batch: one row alone has nothing to be told from."""


@dataclass(frozen=True, slots=True)
class ParaclipTerms:
    """What ``paraclip_loss`` gives; all 0-d, before their weights.

    Attributes:
        total: ``w1 l1 + w2 l2 + w3 l3``, a sum and no mean.
        l1: images and second paraphrases.
        l2: captions and first paraphrases.
        l3: first and second paraphrases.
    """

    total: Float[Tensor, ""]
    l1: Float[Tensor, ""]
    l2: Float[Tensor, ""]
    l3: Float[Tensor, ""]


@checked
def paraclip_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    para1: Float[Tensor, "b d"],
    para2: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    weights: Annotated[Sequence[NonNegative], Len(3, 3)] = (1.0, 1.0, 1.0),
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> ParaclipTerms:
    """``L(img, para2) + L(txt, para1) + L(para1, para2)``, L being CLIP's symmetric loss of cosines times the scale.

    The image is paired with the SECOND paraphrase, whose wording is farthest from the caption's; what is known of
    the caption is kept through the other two terms. Images get no gradient: their tower is frozen. Logits are at
    least float32, and never stored as a whole.

    Source: arXiv 2402.15120, section 3.2. There is no released training code.

    Args:
        img: of any length but 0, normalised here; row i of all four belongs to one image.
        txt: captions.
        para1: paraphrases of the captions.
        para2: paraphrases of the paraphrases.
        logit_scale: multiplier of the cosines, already exponentiated, one for all three terms.
        weights: of the three terms.
        labels: equal for rows that mean the same, such as equal captions: each counts as a positive of the others,
            where they would be false negatives. Ours; None leaves them negatives.
        gather: rows of all processes; None for this process alone.
    """
    named = {"img": img, "txt": txt, "para1": para1, "para2": para2}
    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in named.items())
    if any(rows.ndim != 2 or rows.shape != img.shape for rows in named.values()):
        raise InputError(f"expected four equal (b, d), got {shapes}")
    gather = gather or LOCAL
    if len(img) * gather.world < LEAST_ROWS:
        raise InputError(f"expected at least {LEAST_ROWS} rows in a batch, got {shapes}")
    if not any(weights):
        raise InputError(f"weights: expected one above 0, got {tuple(weights)}")
    image, text, first, second = (_unit(rows) for rows in (img.detach(), txt, para1, para2))
    l1, l2, l3 = (
        clip_loss(one, other, logit_scale, labels=labels, gather=gather)
        for one, other in ((image, second), (text, first), (first, second))
    )
    parts = [weight * part for weight, part in zip(weights, (l1, l2, l3), strict=True) if weight > 0]
    return ParaclipTerms(torch.stack(parts).sum(), l1, l2, l3)


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
