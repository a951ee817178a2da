"""How far the features of each class have collapsed to a point, and the class means to a simplex, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.evaluate.checks import checked_rows
from tether.evaluate.imbalance import Numbers, rank_correlation


@dataclass(frozen=True, slots=True)
class NeuralCollapse:
    """Three signs of neural collapse for each of c classes; each is 0 where it is complete. NaN for absent classes.

    Attributes:
        within_between: (c,) NC1: scatter within the class over the scatter between class means.
        means_all: (c,) NC2: mean distance of its mean's cosines with the other means from ``-1 / (c - 1)``.
        means_nearest: (c,) the largest of these.
        head_all: (c,) the same of the classifier's class vectors, or None without a head.
        head_nearest: (c,) the largest of these, or None.
    """

    within_between: Float[Tensor, " c"]
    means_all: Float[Tensor, " c"]
    means_nearest: Float[Tensor, " c"]
    head_all: Float[Tensor, " c"] | None
    head_nearest: Float[Tensor, " c"] | None

    def correlations(self, values: Numbers) -> dict[str, float | None]:
        """Spearman's correlation of each sign with one value of each class, such as its frequency; NaN is left out."""
        given = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, np.float64)
        if given.shape != tuple(self.within_between.shape):
            raise InputError(f"values: expected ({len(self.within_between)},), got {given.shape}")
        found = {}
        for name in ("within_between", "means_all", "means_nearest", "head_all", "head_nearest"):
            sign = getattr(self, name)
            if sign is not None:
                found[name] = rank_correlation(given, sign.cpu().numpy())
        return found


def neural_collapse(
    features: Float[Tensor, "n d"],
    *,
    labels: Int[Tensor, " n"],
    head: Float[Tensor, "c d"] | None = None,
    classes: int | None = None,
) -> NeuralCollapse:
    """Neural collapse of each class in float64.

    With mu_k the mean of class k and mu the mean of the class means: ``S_k = sum (h - mu_k)(h - mu_k)^T / n`` over the
    class's rows, n being all rows, ``S_b = sum (mu_k - mu)(mu_k - mu)^T / c``, and NC1 is ``trace(S_k pinv(S_b))``.
    NC2 takes cosines of the centred means; the head's vectors are normalised but not centred.

    Source: arXiv 2405.21070 appendix, released code (``get_nc_metrics``). Differs in that classes without a row are
    left out of mu, S_b and c, where the released code gives NaN for all.

    Args:
        features: of a balanced test set, not normalised.
        labels: class of each row.
        head: class vectors of the classifier, such as ``CosineHead.weight``.
        classes: c; None takes the head's, or the largest label + 1.
    """
    rows = checked_rows(features.detach(), name="features").double()
    if labels.shape != rows.shape[:1] or labels.is_floating_point():
        raise InputError(f"labels: expected {len(rows)} whole numbers, got {labels.dtype} {tuple(labels.shape)}")
    labels = labels.to(rows.device).long()
    if classes is None:
        classes = len(head) if head is not None else int(labels.max()) + 1
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(f"labels: expected 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    if head is not None and tuple(head.shape) != (classes, rows.shape[1]):
        raise InputError(f"head: expected ({classes}, {rows.shape[1]}), got {tuple(head.shape)}")
    sizes = torch.bincount(labels, minlength=classes)
    present = torch.nonzero(sizes).flatten()
    if len(present) < 2:
        raise InputError(f"expected rows of at least two classes, got {len(present)}")
    means = rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows) / sizes.clamp(min=1)[:, None]
    centred = means[present] - means[present].mean(dim=0)
    inverse = torch.linalg.pinv(centred.T @ centred / len(present))
    away = rows - means[labels]
    spread = ((away @ inverse) * away).sum(dim=1) / len(rows)
    within = rows.new_zeros(classes).index_add_(0, labels, spread)
    within[sizes == 0] = torch.nan
    all_, nearest = (_spread_out(part, places=present, classes=classes) for part in _coherence(centred))
    if head is None:
        return NeuralCollapse(within, all_, nearest, None, None)
    vectors = checked_rows(head.detach(), name="head").to(rows.device).double()
    return NeuralCollapse(within, all_, nearest, *_coherence(vectors))


def _coherence(vectors: Float[Tensor, "c d"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and largest distance of the cosines with the others from those of a simplex; NaN for a vector of zeros."""
    unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    away = (unit @ unit.T + 1 / (len(vectors) - 1)).fill_diagonal_(0.0).abs()
    return away.sum(dim=1) / (len(vectors) - 1), away.amax(dim=1)


def _spread_out(values: Tensor, *, places: Tensor, classes: int) -> Tensor:
    whole = values.new_full((classes,), torch.nan)
    whole[places] = values
    return whole
