"""TripletCLIP: NegCLIP's loss twice, for the real pairs and for the hard negative ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from tether.core.gather import LOCAL, Gather
from tether.core.ranges import checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.hard_negatives import (
    Duplicates,
    EqualNegatives,
    check_negatives,
    pair_labels,
    quadruple_rows,
)
from tether.methods.tripletclip.neg_clip import neg_clip_terms


@dataclass(frozen=True, slots=True)
class TripletTerms:
    """What ``triplet_clip_loss`` gives; all 0-d.

    Attributes:
        total: real plus negative, to be minimised.
        real: NegCLIP's loss of the pairs against the negative captions.
        negative: NegCLIP's loss of the negative pairs against the real captions.
        accuracy: top-1 of both directions and both roles, averaged; an image chooses among 2b captions.
    """

    total: Float[Tensor, ""]
    real: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


def triplet_clip_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    neg_img: Float[Tensor, "b d"],
    neg_txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    labels: Int[Tensor, " b"] | None = None,
    neg_labels: Int[Tensor, " b"] | None = None,
    duplicates: Duplicates = "negatives",
    gather: Gather | None = None,
) -> TripletTerms:
    """``N(img, txt, neg_txt) + N(neg_img, neg_txt, txt)`` with N NegCLIP's loss (arXiv 2411.02545, released code).

    A plain sum, about twice CLIP's loss: halve the learning rate or tune it. A negative image is never a negative of
    a real caption; ``symmetric_negative_loss`` has that too. The paper speaks of alternating terms, its code sums
    them; one term a step is NegCLIP's loss under the step ``hard_negatives`` with ``roles="in_turn"``.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        neg_img: rows of length 1; row i and ``neg_txt[i]`` are the hard negative pair of pair i.
        neg_txt: rows of length 1.
        logit_scale: multiplier of the cosines, already exponentiated.
        labels: as in ``neg_clip_loss``.
        neg_labels: as in ``neg_clip_loss``.
        duplicates: as in ``neg_clip_loss``.
        gather: rows of all processes; None for this process alone.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from tether.methods.tripletclip import triplet_clip_loss
        >>> image, text, other_image, other_text = F.normalize(torch.randn(4, 8, 32), dim=-1)
        >>> found = triplet_clip_loss(image, text, other_image, other_text, 20.0)
        >>> bool(found.total == found.real + found.negative)
        True
    """
    check_negatives(img, txt, negative_image=neg_img, negative_text=neg_txt)
    equal = EqualNegatives()
    equal(txt, neg_txt, what="captions")
    equal(img, neg_img, what="pictures")
    return _terms(
        (img, txt, neg_img, neg_txt),
        logit_scale,
        labels=(labels, neg_labels),
        duplicates=duplicates,
        gather=gather or LOCAL,
    )


def _terms(
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: Tensor | float,
    *,
    labels: tuple[Tensor | None, Tensor | None],
    duplicates: Duplicates,
    gather: Gather,
) -> TripletTerms:
    img, txt, neg_img, neg_txt = rows
    roles = ((img, txt, neg_txt, labels), (neg_img, neg_txt, txt, labels[::-1]))
    real, negative = (
        neg_clip_terms(picture, caption, other, scale, labels=named, duplicates=duplicates, gather=gather)
        for picture, caption, other, named in roles
    )
    accuracy = (real.accuracy + negative.accuracy) / 2
    return TripletTerms(real.total + negative.total, real.total, negative.total, accuracy)


@final
class TripletClipLoss:
    """TripletCLIP's objective, both roles in one step. Source: arXiv 2411.02545, released code.

    It needs ``Encoded.negative_image`` and ``negative_text``, which the step ``hard_negatives`` puts there.
    """

    @checked
    def __init__(self, *, duplicates: Duplicates = "negatives") -> None:
        """Take the settings.

        Args:
            duplicates: as for ``NegClipLoss``.
        """
        self.duplicates: Duplicates = duplicates
        self._equal = EqualNegatives()

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's quadruples; terms are both roles, the accuracy and the logit scale."""
        found = _terms(
            quadruple_rows(out, equal=self._equal),
            out.logit_scale,
            labels=pair_labels(batch, duplicates=self.duplicates),
            duplicates=self.duplicates,
            gather=gather,
        )
        terms = {
            "logit_scale": out.logit_scale.detach(),
            "real": found.real.detach(),
            "negative": found.negative.detach(),
            "accuracy": found.accuracy,
        }
        return Loss(found.total, terms)
