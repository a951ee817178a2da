"""Zero-shot classification: how often the right class is among the most similar prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry
from tether.core.ranges import checked
from tether.evaluate.checks import checked_pair, checked_rows
from tether.evaluate.retrieval import Depths

LOGIT_SCALE = 100.0  # arXiv 2103.00020, released code: what cosines are multiplied by


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Zero-shot results over a labelled set.

    Attributes:
        top1: fraction of images whose own class comes first.
        top5: share whose own class is among the first min(5, classes).
        mean_per_class: mean over classes of the share right, for sets with unequal classes.
        confusion: (classes, classes) counts; rows are true classes, columns the class named first.
        ranks: (n,) rank of the true class of each image.
        predicted: (n,) the class named first; ties go to the first class.
    """

    top1: float
    top5: float
    mean_per_class: float
    confusion: Int[Tensor, "c c"]
    ranks: Int[Tensor, " n"]
    predicted: Int[Tensor, " n"]


def logits(
    image: Float[Tensor, "n d"],
    *,
    weights: Float[Tensor, "c d"],
    scale: float = LOGIT_SCALE,
    geometry: Geometry = COSINE,
) -> Float[Tensor, "n c"]:
    """``scale`` times the similarity of (n, d) images to (c, d) class rows, both as points of the geometry.

    For the cosine, points are rows of length 1.
    """
    image, weights = checked_pair(image, weights)
    return scale * geometry.similarity(image, weights)


def label_ranks(scores: Float[Tensor, "n c"], *, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Rank of the true class of each row, 1 is best; a tie counts against it."""
    scores = checked_rows(scores, name="logits")
    if labels.shape != (len(scores),) or labels.is_floating_point():
        raise InputError(f"labels: expected ({len(scores)},) integers, got {labels.dtype} {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= scores.shape[1]:
        raise InputError(f"labels: expected 0 to {scores.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}")
    return (scores >= scores.gather(1, labels.long()[:, None])).sum(dim=1)


@checked
def top_k_accuracy(scores: Float[Tensor, "n c"], *, labels: Int[Tensor, " n"], k: Depths = (1, 5)) -> dict[str, float]:
    """Fraction of rows whose true class is among the first min(k, c), under ``top1``, ``top5``...

    Args:
        scores: (n, c) logits.
        labels: (n,) true class of each row.
        k: the depths.
    """
    place = label_ranks(scores, labels=labels)
    return {f"top{limit}": (place <= limit).double().mean().item() for limit in k}


def zero_shot(scores: Float[Tensor, "n c"], *, labels: Int[Tensor, " n"]) -> ZeroShot:
    """Everything zero-shot from (n, c) logits and (n,) labels; errors are those of ``label_ranks``."""
    place = label_ranks(scores, labels=labels)
    classes = scores.shape[1]
    predicted = scores.argmax(dim=1)
    labels = labels.long()
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes)
    total = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[place <= 1], minlength=classes)
    return ZeroShot(
        top1=(place <= 1).double().mean().item(),
        top5=(place <= 5).double().mean().item(),
        mean_per_class=(right[total > 0] / total[total > 0]).double().mean().item(),
        confusion=confusion,
        ranks=place,
        predicted=predicted,
    )
