"""ProCLIP's distillation: rows stay at their teacher's, and as far from each other as there (arXiv 2510.18795)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.ranges import checked
from tether.losses.closeness import Rows, closeness_loss


@dataclass(frozen=True, slots=True)
class ProclipTerms:
    """What ``proclip_loss`` gives; all 0-d.

    Attributes:
        total: the sum of the two.
        instance: squared distances of rows from their teacher's.
        structure: smooth L1 of the distances between rows.
    """

    total: Float[Tensor, ""]
    instance: Float[Tensor, ""]
    structure: Float[Tensor, ""]


@checked
def proclip_loss(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    *,
    further: Sequence[tuple[Tensor, Tensor]] = (),
    rows: Rows = "unit",
    reduction: Literal["mean", "sum"] = "mean",
) -> ProclipTerms:
    """Instance loss and structure loss with equal weights, of ProCLIP's first stage (texts) and second (images).

    The release sums over rows and pairs, so that the loss grows with the batch and its structure with the square; a
    ``mean`` keeps the weight of the second stage meaningful at any batch.

    Args:
        student: rows of any length.
        teacher: the same things as the teacher has them, without gradient.
        further: (student, teacher) rows of other captions of the same images, for the instance loss alone: the release
            gives short captions as the first and raw ones here.
        rows: see ``closeness_loss``.
        reduction: see ``closeness_loss``.

    Raises:
        InputError: fewer than 2 rows, or shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.losses import proclip_loss
        >>> found = proclip_loss(torch.eye(4).roll(1, dims=1), torch.eye(4))
        >>> found.instance.item(), found.structure.item()
        (2.0, 0.0)
    """
    structure = closeness_loss(student, teacher, distance="pairwise", rows=rows, reduction=reduction)
    each = [
        closeness_loss(own, wanted, distance="squared", rows=rows, reduction=reduction)
        for own, wanted in ((student, teacher), *further)
    ]
    instance = torch.stack(each).sum()
    return ProclipTerms(instance + structure, instance, structure)
