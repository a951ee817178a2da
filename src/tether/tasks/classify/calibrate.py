"""Temperature scaling: make a confidence of 0.8 mean right eight times in ten (arXiv 1706.04599, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import Batch

SCALES = (1e-2, 1e4)  # where the multiplier of the cosine is looked for
BINS = 15  # of the calibration error, as in the paper's section 5
ROUNDS = 100
LABELS = "labels"
"""Name in ``Batch.extra`` of the (b,) class numbers that calibrate a head."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted multiplier of the cosine, the inverse of the temperature.

    Attributes:
        scale: the multiplier.
        rows: labelled images it was fitted on.
        accuracy: fraction of them that were right; the scale does not change it.
        loss_before: mean negative log-likelihood with the model's own scale, in nats.
        loss: with the fitted one.
        error_before: expected calibration error with the model's own scale, from 0 to 1.
        error: with the fitted one.
    """

    scale: float
    rows: int
    accuracy: float
    loss_before: float
    loss: float
    error_before: float
    error: float


def labelled_scores(
    support: Iterable[Batch], score: Callable[[Any], Float[Tensor, "b c"]]
) -> tuple[Float[Tensor, "n c"], Int[Tensor, " n"]]:
    """Scores and classes of labelled images, for ``fit_scale``; ``score`` is given the images of each batch.

    Raises:
        InputError: no image, or a batch without ``LABELS``.
    """
    found, labels = list[Tensor](), list[Tensor]()
    for batch in support:
        given = batch.extra.get(LABELS)
        if not isinstance(given, Tensor) or given.shape != (len(batch.image),):
            raise InputError(f"support: expected extra[{LABELS!r}] with {len(batch.image)} class numbers")
        found.append(score(batch.image))
        labels.append(given.cpu())
    if not labels:
        raise InputError("support: no labelled image to calibrate on")
    return torch.cat(found), torch.cat(labels)


def fit_scale(cosine: Float[Tensor, "n c"], *, labels: Int[Tensor, " n"], own: float) -> Calibration:
    """The multiplier under which the labels are most likely.

    The loss is convex in the multiplier, so bisection of its slope finds the one minimum; when every image is
    right by a margin, the likelihood rises for ever and the upper end of ``SCALES`` is taken.

    Args:
        cosine: similarity of n images with c classes.
        labels: the true class of each.
        own: the model's own multiplier, to compare with.
    """
    if cosine.ndim != 2 or len(cosine) == 0 or labels.shape != (len(cosine),):
        raise InputError(
            f"calibration: expected (n, c) cosines and (n,) labels, got {tuple(cosine.shape)} and {tuple(labels.shape)}"
        )
    if not torch.isfinite(cosine).all():
        raise InputError("calibration: a cosine is not finite")
    if int(labels.min()) < 0 or int(labels.max()) >= cosine.shape[1]:
        given = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"calibration: expected labels from 0 to {cosine.shape[1] - 1}, got {given}")
    cosine, labels = cosine.double(), labels.long()
    right = cosine.gather(1, labels[:, None])[:, 0].mean()

    def slope(scale: float) -> float:
        return float(((F.softmax(scale * cosine, dim=1) * cosine).sum(dim=1)).mean() - right)

    low, high = (math.log(end) for end in SCALES)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    scale = math.exp((low + high) / 2)
    return Calibration(
        scale=scale,
        rows=len(labels),
        accuracy=float((cosine.argmax(dim=1) == labels).double().mean()),
        loss_before=float(F.cross_entropy(own * cosine, labels)),
        loss=float(F.cross_entropy(scale * cosine, labels)),
        error_before=calibration_error(F.softmax(own * cosine, dim=1), labels=labels),
        error=calibration_error(F.softmax(scale * cosine, dim=1), labels=labels),
    )


def calibration_error(probability: Float[Tensor, "n c"], *, labels: Int[Tensor, " n"], bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy over equal bins of confidence, weighted by their rows."""
    confidence, best = probability.max(dim=1)
    right = (best == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right - confidence.double())
    return float(gap.abs().sum() / len(labels))
