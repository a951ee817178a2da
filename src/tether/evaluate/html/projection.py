"""Embeddings on a plane: neighbours near each other (t-SNE), and both modalities in one view (PCA)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOST_PLACED = 500
Points = tuple[tuple[float, float], ...]
_LEAST_FOR_TSNE = 12


def neighbourhoods(rows: Float[Tensor, "n d"], *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Unit rows on a plane in [0, 1]: t-SNE of cosine distances, or PCA for a handful of rows."""
    if len(rows) < _LEAST_FOR_TSNE:
        return unit_square(principal(rows))
    from sklearn.manifold import TSNE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about settings and threads that the reader of a report cannot change
        placed = TSNE(
            metric="cosine",
            perplexity=min(20.0, (len(rows) - 1) / 3),
            init="pca",
            random_state=seed,
            max_iter=500,
        ).fit_transform(rows.double().numpy())
    return unit_square(placed)


def principal(rows: Float[Tensor, "n d"]) -> Float[np.ndarray, "n 2"]:
    """The two directions of greatest variance; a missing second one is zero."""
    centred = (rows - rows.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    plane = torch.zeros(len(rows), 2, dtype=torch.float64)
    plane[:, : min(2, len(s))] = (u * s)[:, :2]
    return plane.numpy()


def clouds(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> tuple[Points, Points]:
    """Both in their common two main directions, one scale for both axes, within 0 to 100."""
    plane = principal(torch.cat([first, second]))
    middle, span = (plane.max(0) + plane.min(0)) / 2, float(np.ptp(plane, axis=0).max()) or 1.0
    placed = tuple((round(50 + 92 * float(x), 1), round(50 + 92 * float(y), 1)) for x, y in (plane - middle) / span)
    return placed[: len(first)], placed[len(first) :]


def unit_square(plane: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Each axis stretched to [0, 1]."""
    low, span = plane.min(axis=0), np.ptp(plane, axis=0)
    return (plane - low) / np.where(span > 0, span, 1.0)
