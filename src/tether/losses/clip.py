"""CLIP's loss: each image must find its text in the batch, or one of several, and each text its image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Decay, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import caption_labels, check_cosine, check_unit_pairs, unit_rows
from tether.losses.infonce import PairLosses, info_nce, info_nce_pairs

RowEdit = Callable[[Tensor, Tensor], Tensor]
"""Queries (b, d) and all keys (n, d) to queries; the logits are ``queries @ keys.T``, scale and bias included."""


Directions = Literal["mean", "sum", "image_to_text", "text_to_image"]
Reduction = Literal["mean", "sum", "none"]


@checked
def clip_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    labels: Int[Tensor, " b"] | None = None,
    reduction: Reduction = "mean",
    gather: Gather | None = None,
    directions: Directions = "mean",
    label_smoothing: Decay = 0.0,
    extra_img: Float[Tensor, "k d"] | None = None,
    extra_txt: Float[Tensor, "k2 d"] | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " b"]:
    """Symmetric cross-entropy of ``logit_scale * img @ txt.T``; exactly 0 for one pair. Source: arXiv 2103.00020.

    Logits are at least float32 under any autocast, and never stored as a whole. With ``gather``, each process takes
    its own rows and columns of the whole matrix, and the mean of the losses over processes is the loss of the whole
    batch, with its gradient.

    Args:
        img: rows of length 1; row i and ``txt[i]`` are one pair.
        txt: rows of length 1.
        logit_scale: multiplier of the cosines, already exponentiated.
        labels: equal for pairs that mean the same (duplicate captions): each counts as a positive of the others.
        reduction: over the b pairs; ``none`` gives (b,).
        gather: rows of all processes; None for this process alone.
        directions: ``mean`` or ``sum`` of the two, or one of them.
        label_smoothing: share of the target spread over all candidates, in [0, 1).
        extra_img: further images that no text of the batch belongs to, as many on every process.
        extra_txt: further texts that no image of the batch belongs to, as many on every process.
    """
    check_unit_pairs(img, txt)
    losses = _both(
        img,
        txt,
        logit_scale,
        labels=labels,
        gather=gather or LOCAL,
        directions=directions,
        label_smoothing=label_smoothing,
        extra_img=extra_img,
        extra_txt=extra_txt,
    )
    return _reduce(_combine(losses, directions), reduction, world=(gather or LOCAL).world)


def _both(
    img: Tensor,
    txt: Tensor,
    scale: Tensor | float,
    *,
    labels: Tensor | None,
    gather: Gather,
    directions: Directions,
    label_smoothing: float,
    extra_img: Tensor | None = None,
    extra_txt: Tensor | None = None,
    edit: RowEdit | None = None,
) -> PairLosses:
    """Losses of this process's pairs; a direction that is not asked for is computed only where it is free."""
    if gather.world == 1 and directions in ("mean", "sum") and edit is None:
        return info_nce_pairs(
            img,
            txt,
            scale=scale,
            extra_left=extra_img,
            extra_right=extra_txt,
            labels=labels,
            label_smoothing=label_smoothing,
        )
    all_labels = None if labels is None else gather(labels)
    offset = gather.rank * len(img)

    def one_way(queries: Tensor, keys: Tensor, extra: Tensor | None) -> Tensor:
        rows = gather(keys) if extra is None else torch.cat([gather(keys), gather(extra)])
        return info_nce(
            queries if edit is None else edit(queries * scale, rows),
            rows,
            scale=scale if edit is None else 1.0,
            offset=offset,
            query_labels=labels,
            key_labels=all_labels,
            label_smoothing=label_smoothing,
        )

    nothing = img.new_zeros(len(img))
    left = one_way(img, txt, extra_txt) if directions != "text_to_image" else nothing
    right = one_way(txt, img, extra_img) if directions != "image_to_text" else nothing
    return PairLosses(left, right)


def _combine(losses: PairLosses, directions: Directions) -> Tensor:
    if directions == "image_to_text":
        return losses.left
    if directions == "text_to_image":
        return losses.right
    total = losses.left + losses.right
    return total / 2 if directions == "mean" else total


def _reduce(losses: Tensor, reduction: Reduction, *, world: int) -> Tensor:
    """Over this process's pairs, so that the mean over processes is the same reduction over the whole batch."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum() * world


@final
class ClipLoss:
    """CLIP's objective on the two embeddings, exact across processes and without the B x B matrix.

    Source: arXiv 2103.00020, figure 3.
    """

    @checked
    def __init__(
        self,
        *,
        directions: Directions = "mean",
        label_smoothing: Decay = 0.0,
        duplicates: Literal["negatives", "positives"] = "negatives",
    ) -> None:
        """Take the settings; the defaults are CLIP's.

        Args:
            directions: ``mean`` or ``sum`` of image-to-text and text-to-image, or one of them.
            label_smoothing: share of the target spread over the batch.
            duplicates: pairs with equal captions are each other's ``negatives``, as in CLIP, or ``positives``. What
                counts as equal is ``batch.extra["labels"]`` (b,), or the tokens where there is none.
        """
        self.directions: Directions = directions
        self.label_smoothing = label_smoothing
        self.duplicates = duplicates

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are the two directions and the logit scale."""
        return self._loss(out, batch, gather=gather, edit=None)

    def edited(self, out: Encoded, batch: Batch, *, gather: Gather, edit: RowEdit) -> Loss:
        """The same with the logits of every image, and those of every text, changed by ``edit``."""
        return self._loss(out, batch, gather=gather, edit=edit)

    def _loss(self, out: Encoded, batch: Batch, *, gather: Gather, edit: RowEdit | None) -> Loss:
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(image, text)
        losses = _both(
            image,
            text,
            out.logit_scale,
            labels=batch_labels(batch) if self.duplicates == "positives" else None,
            gather=gather,
            directions=self.directions,
            label_smoothing=self.label_smoothing,
            edit=edit,
        )
        terms = {"logit_scale": out.logit_scale.detach()}
        if self.directions != "text_to_image":
            terms["image_to_text"] = losses.left.detach().mean()
        if self.directions != "image_to_text":
            terms["text_to_image"] = losses.right.detach().mean()
        return Loss(_combine(losses, self.directions).mean(), terms)


def batch_labels(batch: Batch) -> Int[Tensor, " b"]:
    """``batch.extra["labels"]``, or a label for each distinct caption."""
    labels = batch.extra.get("labels")
    return labels if isinstance(labels, Tensor) else caption_labels(batch.text)


def multi_text_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "m b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """The mean over m texts of CLIP's symmetric loss of the images and those texts; one text gives CLIP's loss.

    Texts of one image are never candidates of each other. The text tower sees m times as many texts.

    Source: arXiv 2305.20088, section 4 ("multi-text"); how its parts are averaged is not published, so this is the
    plain mean.

    Args:
        img: rows of length 1.
        txt: for each of m texts its rows of length 1; ``txt[k, i]`` and ``img[i]`` are one pair.
        logit_scale: multiplier of the cosines, already exponentiated.
        labels: as in ``clip_loss``.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: not (m, b, d) with m >= 1, or what ``clip_loss`` refuses.
    """
    if txt.ndim != 3 or len(txt) == 0:
        raise InputError(f"txt: expected (m, b, d) with m >= 1, got {tuple(txt.shape)}")
    return torch.stack([clip_loss(img, one, logit_scale, labels=labels, gather=gather) for one in txt]).mean()
