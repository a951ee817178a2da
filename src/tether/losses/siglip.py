"""SigLIP's loss: every image and text of the batch is its own yes-or-no question."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_pairs, unit_rows
from tether.losses.clip import RowEdit, batch_labels
from tether.losses.sigmoid import sigmoid_pairs


def siglip_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    logit_bias: Float[Tensor, ""] | float,
    *,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """``-sum_ij log sigmoid(y_ij (logit_scale * img_i . txt_j + logit_bias)) / b`` (arXiv 2303.15343, section 3).

    The sum is divided by the batch, not by its square. With ``gather``, each process asks its images about the texts
    of all, and the mean over processes is the loss of the whole batch.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        logit_scale: multiplier of the cosines, already exponentiated; SigLIP starts at 10.
        logit_bias: added to the logits; SigLIP starts at -10.
        labels: equal for pairs that mean the same: the answer is yes for all of them.
        gather: rows of all processes; None for this process alone.
    """
    check_unit_pairs(img, txt)
    gather = gather or LOCAL
    return sigmoid_pairs(
        img,
        gather(txt),
        scale=logit_scale,
        bias=logit_bias,
        offset=gather.rank * len(img),
        left_labels=labels,
        right_labels=None if labels is None else gather(labels),
    ).mean()


@final
class SigLipLoss:
    """SigLIP's objective on the two embeddings; the model must have a logit bias. Source: arXiv 2303.15343."""

    @checked
    def __init__(self, *, duplicates: Literal["negatives", "positives"] = "negatives") -> None:
        """Take the settings.

        Args:
            duplicates: pairs with equal captions are each other's ``negatives``, as published, or ``positives``. What
                counts as equal is ``batch.extra["labels"]`` (b,), or the tokens where there is none.
        """
        self.duplicates = duplicates

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's images; terms are the logit scale and bias.

        Raises:
            InputError: the model has no logit bias.
        """
        check_cosine(out)
        scale, bias = out.logit_scale, _need_bias(out)
        total = siglip_loss(
            unit_rows(out.image),
            unit_rows(out.text),
            scale,
            bias,
            labels=batch_labels(batch) if self.duplicates == "positives" else None,
            gather=gather,
        )
        return Loss(total, _terms(scale, bias))

    def edited(self, out: Encoded, batch: Batch, *, gather: Gather, edit: RowEdit) -> Loss:
        """The same with the logits of every image changed by ``edit``; the bias is one more dimension of the rows.

        Raises:
            InputError: the model has no logit bias.
        """
        check_cosine(out)
        scale, bias = out.logit_scale, _need_bias(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(image, text)
        queries = torch.cat([image * scale, bias.to(image.dtype).expand(len(image), 1)], dim=1)
        keys = gather(torch.cat([text, torch.ones_like(text[:, :1])], dim=1))
        labels = batch_labels(batch) if self.duplicates == "positives" else None
        losses = sigmoid_pairs(
            edit(queries, keys),
            keys,
            scale=1.0,
            bias=0.0,
            offset=gather.rank * len(image),
            left_labels=labels,
            right_labels=None if labels is None else gather(labels),
        )
        return Loss(losses.mean(), _terms(scale, bias))


def _need_bias(out: Encoded) -> Tensor:
    if out.logit_bias is None:
        raise InputError("SigLIP needs a model with a logit bias: create it with one (it starts at -10)")
    return out.logit_bias


def _terms(scale: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"logit_scale": scale.detach(), "logit_bias": bias.detach()}
