"""NegCLIP: every image also sees the hard negative captions of the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.gather import LOCAL, Gather
from tether.core.ranges import checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, unit_rows
from tether.losses.hard_negatives import (
    Duplicates,
    EqualNegatives,
    check_negatives,
    hard_search,
    negative_rows,
    pair_labels,
    top_hits,
)
from tether.losses.infonce import Searched, search_pairs


def neg_clip_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    neg_txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    labels: Int[Tensor, " b"] | None = None,
    neg_labels: Int[Tensor, " b"] | None = None,
    duplicates: Duplicates = "negatives",
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Mean of image-to-text over 2b captions and text-to-image over b images (arXiv 2210.01936, section 4).

    The negative captions are candidates of every image, and of no caption: text to image is plain CLIP. With
    ``gather`` those of all processes are, in the order of the processes.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        neg_txt: rows of length 1; row i is the hard negative of ``txt[i]``.
        logit_scale: multiplier of the cosines, already exponentiated.
        labels: equal for pairs that mean the same; needed unless duplicates are negatives.
        neg_labels: of the negative captions, among the same labels.
        duplicates: what candidates of a row's own label are; see ``hard_info_nce``. With templates a negative of one
            pair is often the caption of another: ``left_out`` takes it out.
        gather: rows of all processes; None for this process alone.
    """
    check_negatives(img, txt, negative_text=neg_txt)
    EqualNegatives()(txt, neg_txt, what="captions")
    return neg_clip_terms(
        img, txt, neg_txt, logit_scale, labels=(labels, neg_labels), duplicates=duplicates, gather=gather or LOCAL
    ).total


@dataclass(frozen=True, slots=True)
class NegClipTerms:
    """What ``neg_clip_terms`` gives; all 0-d, and without gradient but for ``total``.

    Attributes:
        total: mean of both directions.
        image_to_text: images look for their captions.
        text_to_image: captions look for their images.
        accuracy: as of ``neg_clip_accuracy``.
    """

    total: Float[Tensor, ""]
    image_to_text: Float[Tensor, ""]
    text_to_image: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


def neg_clip_terms(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    neg_txt: Float[Tensor, "b d"],
    scale: Float[Tensor, ""] | float,
    *,
    labels: tuple[Tensor | None, Tensor | None],
    duplicates: Duplicates,
    gather: Gather,
) -> NegClipTerms:
    """Loss and accuracy of this process's pairs, from one pass; arguments are those of ``neg_clip_loss``, unchecked."""
    if gather.world == 1 and duplicates == "negatives":
        return _terms(*search_pairs(img, txt, scale=scale, extra_right=neg_txt))
    offset = gather.rank * len(img)
    own, other = (None if one is None else gather(one) for one in labels)
    both = None if own is None or other is None else torch.cat([own, other])
    left = hard_search(
        img,
        torch.cat([gather(txt), gather(neg_txt)]),
        scale=scale,
        offset=offset,
        query_labels=labels[0],
        key_labels=both,
        duplicates=duplicates,
    )
    right = hard_search(
        txt,
        gather(img),
        scale=scale,
        offset=offset,
        query_labels=labels[0],
        key_labels=own,
        duplicates=duplicates,
    )
    return _terms(left, right)


def _terms(left: Searched, right: Searched) -> NegClipTerms:
    return NegClipTerms(
        (left.losses + right.losses).mean() / 2,
        left.losses.detach().mean(),
        right.losses.detach().mean(),
        (left.hits.float().mean() + right.hits.float().mean()) / 2,
    )


@torch.no_grad()
def neg_clip_accuracy(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    neg_txt: Float[Tensor, "b d"] | None = None,
    *,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """Mean of the shares of images that pick their caption among all, and of captions that pick their image."""
    gather = gather or LOCAL
    offset, texts = gather.rank * len(img), gather(txt)
    if neg_txt is not None:
        texts = torch.cat([texts, gather(neg_txt)])
    return (top_hits(img, texts, offset=offset) + top_hits(txt, gather(img), offset=offset)) / 2


@final
class NegClipLoss:
    """NegCLIP's objective: hard negative captions for every image. Source: arXiv 2210.01936, section 4.

    It needs captions in ``Encoded.negative_text``, which the step ``hard_negatives`` puts there.
    """

    @checked
    def __init__(self, *, duplicates: Duplicates = "negatives") -> None:
        """Take the settings.

        Args:
            duplicates: candidates with the caption of a row's own pair are ``negatives``, as published, ``positives``
                or ``left_out``. What counts as equal is ``labels`` and ``negative_labels`` of ``batch.extra``, or the
                tokens where there are none.
        """
        self.duplicates: Duplicates = duplicates
        self._equal = EqualNegatives()

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are both directions, the accuracy and the logit scale."""
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        negative = negative_rows(out, "negative_text")
        check_negatives(image, text, negative_text=negative)
        self._equal(text, negative, what="captions")
        found = neg_clip_terms(
            image,
            text,
            negative,
            out.logit_scale,
            labels=pair_labels(batch, duplicates=self.duplicates),
            duplicates=self.duplicates,
            gather=gather,
        )
        terms = {
            "logit_scale": out.logit_scale.detach(),
            "image_to_text": found.image_to_text,
            "text_to_image": found.text_to_image,
            "accuracy": found.accuracy,
        }
        return Loss(found.total, terms)
