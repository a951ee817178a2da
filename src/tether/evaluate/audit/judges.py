"""What speaks for each class of an image, by judges that did not learn its own label: a probe and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked

NEAREST = 10
_BLOCK = 1024


@checked
def out_of_fold(
    image: Float[Tensor, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    classes: Count,
    groups: Int[np.ndarray, " n"] | None = None,
    folds: Count = 5,
    strength: Positive = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, "n c"]:
    """Probabilities of each row by logistic regressions on embeddings, each fitted on the folds without it.

    Rows are scaled to length 1, less their mean, and by one number to a mean squared length of 1, so that embeddings
    that all point one way are separated, too.

    Classes are spread evenly over the folds; there are fewer folds where the smallest class has fewer rows. A class
    that no other fold holds gets 0.

    Args:
        image: one row for each image.
        labels: numbers of the classes.
        classes: how many there are.
        groups: rows with one number are in one fold, such as copies of one image; None: all are apart.
        folds: at most.
        strength: scikit-learn's ``C``.
        seed: of the folds.

    Raises:
        InputError: fewer than two rows of a class that is there.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    unit = F.normalize(image.double(), dim=1)
    unit = unit - unit.mean(dim=0)
    rows = (unit / unit.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)).numpy()
    sizes = np.bincount(labels, minlength=classes)
    parts = min(folds, int(sizes[sizes > 0].min()))
    if parts < 2:
        raise InputError("labels: expected at least two rows of each class")
    names = np.arange(len(labels)) if groups is None else groups
    found = np.zeros((len(labels), classes))
    split = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    for learnt, asked in split.split(cast(Any, rows), cast(Any, labels), cast(Any, names)):
        if not len(asked):
            continue
        known = np.unique(labels[learnt])
        if len(known) < 2:
            found[asked, known[0]] = 1.0
            continue
        probe = LogisticRegression(C=strength, max_iter=300).fit(rows[learnt], labels[learnt])
        found[asked[:, None], known] = probe.predict_proba(rows[asked])
    return found


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest rows of each row, itself and its copies left out.

    Attributes:
        rows: (n, k) the nearest first.
        cosine: (n, k).
    """

    rows: Int[np.ndarray, "n k"]
    cosine: Float[np.ndarray, "n k"]

    def probabilities(self, labels: Int[np.ndarray, " n"], *, classes: int) -> Float[np.ndarray, "n c"]:
        """Share of the neighbours that have each class, with one more neighbour spread over all classes."""
        found = np.full((len(labels), classes), 1.0 / classes)
        near = labels[self.rows]
        for column in range(near.shape[1]):
            np.add.at(found, (np.arange(len(labels)), near[:, column]), 1.0)
        return found / found.sum(axis=1, keepdims=True)

    @property
    def distance(self) -> Float[np.ndarray, " n"]:
        """Mean of 1 - cosine to the neighbours: how far a row lies from all others."""
        return 1 - self.cosine.mean(axis=1)


@checked
def neighbours(
    image: Float[Tensor, "n d"], *, k: Count = NEAREST, groups: Int[np.ndarray, " n"] | None = None
) -> Neighbours:
    """The k nearest rows of each by cosine; rows of its own group (copies of one image) do not count.

    Raises:
        InputError: fewer than two rows.
    """
    if len(image) < 2:
        raise InputError(f"neighbours: expected at least two images, got {len(image)}")
    unit = F.normalize(image.float(), dim=1)
    names = torch.arange(len(unit)) if groups is None else torch.from_numpy(groups)
    k = min(k, len(unit) - 1)
    rows, cosine = [], []
    for start in range(0, len(unit), _BLOCK):
        some = slice(start, start + _BLOCK)
        scores = unit[some] @ unit.T
        scores[names[some, None] == names] = -2.0
        value, place = scores.topk(k, dim=1)
        rows.append(place)
        cosine.append(value)
    return Neighbours(torch.cat(rows).numpy(), torch.cat(cosine).double().clamp_min(-1).numpy())


def outlying(distance: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """How far each distance lies above the median, in robust standard deviations (1.4826 x the median deviation)."""
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    return (distance - middle) / max(float(spread), 1e-9)
