"""How far a model has moved from a teacher: each row from its own, and how the rows of a batch lie to each other."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked

Distance = Literal["cosine", "squared", "pairwise"]
Rows = Literal["unit", "raw"]


@checked
def closeness_loss(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b e"],
    *,
    distance: Distance = "cosine",
    rows: Rows = "unit",
    reduction: Literal["mean", "sum"] = "mean",
    beta: Positive = 1.0,
) -> Float[Tensor, ""]:
    """The loss that holds a student's rows to a teacher's; the teacher gets no gradient. 0 where they agree.

    With ``cosine`` a row counts one minus its cosine with the teacher's, 0 to 2 (DCLIP, arXiv 2505.21549). With
    ``squared`` it counts its squared distance, summed over the dimensions: of unit rows twice that (ProCLIP's instance
    loss, arXiv 2510.18795), of raw rows what a robust text tower (LEAF, arXiv 2506.03355) is held by. With ``pairwise``
    each of the b (b - 1) / 2 pairs counts the smooth L1 between its Euclidean distance at the student and at the
    teacher (ProCLIP's structure loss): rows may turn together, and the two may have different widths.

    Two rows at the same place have no direction from each other: such a pair counts in a pairwise loss, but moves
    neither of them, so equal texts or images do no harm. All is computed in float32 or wider.

    Args:
        student: rows of any length.
        teacher: the same things, row by row.
        distance: what is measured.
        rows: ``unit`` scales both sides to length 1 first, ``raw`` takes them as they are; a cosine has no ``raw``.
        reduction: over the rows or the pairs. A sum grows with the batch, a pairwise one with its square.
        beta: of a pairwise loss, the difference beyond which it grows linearly.

    Raises:
        InputError: other numbers of rows, no row, one row for a pairwise loss, different widths but for a pairwise
            loss, or a cosine of raw rows.

    Example:
        >>> import torch
        >>> from tether.losses import closeness_loss
        >>> before, turned = torch.eye(3), torch.eye(3).roll(1, dims=1)
        >>> closeness_loss(turned, before).item(), closeness_loss(turned, before, distance="squared").item()
        (1.0, 2.0)
        >>> closeness_loss(turned, before, distance="pairwise").item()  # all rows turned alike
        0.0
    """
    pairwise = distance == "pairwise"
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher) or len(student) < 1 + pairwise:
        least = "at least 2 rows (b, d), for pairs of them," if pairwise else "rows (b, d)"
        found = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise InputError(f"expected {least} and as many of the teacher, got {found}")
    if not pairwise and student.shape != teacher.shape:
        raise InputError(f"expected one width, got {student.shape[1]} and the teacher's {teacher.shape[1]}")
    if distance == "cosine" and rows == "raw":
        raise InputError("rows: a cosine is of unit rows; for raw ones take the distance 'squared'")
    with torch.autocast(student.device.type, enabled=False):
        own, wanted = _seen(student, rows), _seen(teacher.detach(), rows)
        if pairwise:
            return F.smooth_l1_loss(torch.pdist(own), torch.pdist(wanted), beta=beta, reduction=reduction)
        each = 1 - (own * wanted).sum(dim=1) if distance == "cosine" else (own - wanted).square().sum(dim=1)
        return each.mean() if reduction == "mean" else each.sum()


def _seen(rows: Tensor, form: Rows) -> Tensor:
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return F.normalize(wide, dim=1) if form == "unit" else wide
