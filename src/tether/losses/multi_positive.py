"""Several texts for an image and several images for a study: every one of them is a positive."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_lengths, check_unit_pairs, unit_rows
from tether.losses.clip import batch_labels
from tether.losses.positive_override import own_places, products

STUDY, PATIENT = "study", "patient"
"""Where a batch's extra holds a whole number for each pair: equal for views and sentences of one study, of one
patient."""

Credit = Literal["each", "any"]


@checked
def multi_positive_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "n d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    positive: Bool[Tensor, "b n"],
    left_out: Bool[Tensor, "b n"] | None = None,
    credit: Credit = "each",
) -> Float[Tensor, ""]:
    """Contrastive loss with any number of positives a row, mean of both directions.

    With ``p_ij`` the softmax of row i: ``each`` is the mean of ``-log p_ij`` over its positives, so all are wanted;
    ``any`` is ``-log sum p_ij``, so one is enough, as where only one sentence of a report speaks of the image. With
    one positive a row both are CLIP's loss. A row without a positive counts nothing.

    Source: arXiv 2312.07353, on long reports and several views.

    Args:
        img: rows of length 1.
        txt: rows of length 1, not necessarily as many.
        logit_scale: multiplier of the cosines, already exponentiated.
        positive: True where a text belongs to an image.
        left_out: True where a text must be no negative of an image either, such as one of the same patient; a
            positive stays one.
        credit: ``each`` or ``any`` of the positives.
    """
    if img.ndim != 2 or txt.ndim != 2 or img.shape[1] != txt.shape[1] or not (len(img) and len(txt)):
        raise InputError(f"expected embeddings (b, d) and (n, d), got {tuple(img.shape)} and {tuple(txt.shape)}")
    for name, table in (("positive", positive), ("left_out", left_out)):
        if table is not None and (table.dtype != torch.bool or tuple(table.shape) != (len(img), len(txt))):
            raise InputError(f"{name}: expected bool {(len(img), len(txt))}, got {table.dtype} {tuple(table.shape)}")
    if positive.device.type == "cpu" and not bool(positive.any()):
        raise InputError("positive: expected at least one text that belongs to a picture, got none")
    check_unit_lengths(img, name="image")
    check_unit_lengths(txt, name="text")
    logits = logit_scale * products(img, txt)
    sides = [(logits, positive, left_out), (logits.T, positive.T, None if left_out is None else left_out.T)]
    total = torch.zeros_like(logits[0, 0])
    for table, own, out in sides:
        losses, counted = positive_rows(table, own, out, credit=credit)
        total = total + losses.sum() / counted.sum()
    return total / 2


def positive_rows(
    logits: Tensor, positive: Tensor, left_out: Tensor | None, *, credit: Credit
) -> tuple[Tensor, Tensor]:
    """Loss of each row, 0 without a positive, and whether it has one."""
    if left_out is not None:
        logits = logits.masked_fill(left_out & ~positive, -math.inf)
    counted = positive.any(dim=1)
    every = logits.logsumexp(dim=1)
    if credit == "any":
        # A row without positives looks at all of them, so that no gradient is NaN, and is not counted.
        mine = logits.masked_fill(~(positive | ~counted[:, None]), -math.inf).logsumexp(dim=1)
    else:
        mine = torch.where(positive, logits, 0.0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return torch.where(counted, every - mine, 0.0), counted


@final
class MultiPositive:
    """CLIP's objective where pairs of one study are each other's positives, and those of one patient no negatives.

    ``batch.extra["study"]`` (b,) are whole numbers, equal for the views and the sentences of one study; without them
    pairs with equal captions count as one study. ``batch.extra["patient"]`` (b,) likewise for patients.

    Source: arXiv 2312.07353, on long reports, several views, and false negatives.
    """

    @checked
    def __init__(self, *, credit: Credit = "each", same_patient: Literal["negatives", "left_out"] = "left_out") -> None:
        """Take the settings.

        Args:
            credit: ``each`` of a row's positives is wanted, or ``any`` one of them is enough.
            same_patient: pairs of another study of one patient are ``negatives``, or ``left_out``. Without patients in
                the batch nothing is left out.
        """
        self.credit: Credit = credit
        self.same_patient = same_patient

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are both directions, the logit scale and the positives a row."""
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(image, text)
        study = _numbers(batch, STUDY, rows=len(image))
        study = batch_labels(batch) if study is None else study
        patient = _numbers(batch, PATIENT, rows=len(image)) if self.same_patient == "left_out" else None
        every = gather(study)
        own = own_places(len(image), keys=len(every), offset=gather.rank * len(image), device=image.device)
        positive = (study[:, None] == every) | own
        left_out = None if patient is None else patient[:, None] == gather(patient)

        def one_way(queries: Tensor, keys: Tensor) -> Tensor:
            logits = out.logit_scale.to(queries) * products(queries, gather(keys))
            return positive_rows(logits, positive, left_out, credit=self.credit)[0].mean()

        left, right = one_way(image, text), one_way(text, image)
        terms = {
            "image_to_text": left.detach(),
            "text_to_image": right.detach(),
            "logit_scale": out.logit_scale.detach(),
            "positives": positive.sum(dim=1).float().mean(),
        }
        return Loss((left + right) / 2, terms)


def _numbers(batch: Batch, name: str, *, rows: int) -> Tensor | None:
    found = batch.extra.get(name)
    if found is None:
        return None
    if not isinstance(found, Tensor) or tuple(found.shape) != (rows,) or found.is_floating_point():
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"batch.extra[{name!r}]: expected ({rows},) whole numbers, got {got}")
    return found
