"""Scores of images learnt from a few numbers: ridge regression on embeddings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError

STRENGTHS = np.logspace(-3, 3, 13)
"""Weights of the penalty that are tried, each by leaving every image out once."""


def fit_ridge(
    image: Float[Tensor, "n d"], *, targets: Float[np.ndarray, " n"]
) -> Callable[[Float[Tensor, "m d"]], Float[np.ndarray, " m"]]:
    """Learn numbers of images from their embeddings, scaled to length 1: scikit-learn's ``RidgeCV``.

    Args:
        image: embeddings.
        targets: the number of each.

    Returns:
        A function from embeddings to scores, in the unit of the targets.

    Raises:
        InputError: fewer than two images, or targets that are not finite or all the same.
    """
    from sklearn.linear_model import RidgeCV

    if targets.shape != (len(image),) or not np.isfinite(targets).all() or len(np.unique(targets)) < 2:
        raise InputError(f"ridge: expected {len(image)} finite targets of at least two values, got {targets.shape}")
    fitted = RidgeCV(STRENGTHS).fit(_unit(image), targets)
    return lambda rows: np.asarray(fitted.predict(_unit(rows)))


def _unit(rows: Tensor) -> Float[np.ndarray, "n d"]:
    return F.normalize(rows.double(), dim=1).numpy()
