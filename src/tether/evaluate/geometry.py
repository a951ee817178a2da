"""The shape of a joint embedding space: gap, alignment, uniformity, effective rank."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.evaluate.checks import checked, checked_pair

Gap = Literal["distance", "squared", "mean_squared"]
_BLOCK = 1024  # rows whose distances to all later rows exist at once


def gap_vector(image: Float[Tensor, "n d"], text: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Mean image embedding minus mean text embedding (arXiv 2203.02053, section 2)."""
    image, text = checked_pair(image, text)
    return image.mean(dim=0) - text.mean(dim=0)


def modality_gap(
    image: Float[Tensor, "n d"], text: Float[Tensor, "m d"], *, variant: Gap = "distance"
) -> Float[Tensor, ""]:
    """How far the centre of the images lies from the centre of the texts; papers report three forms of it.

    Args:
        image: (n, d) embeddings, usually normalised.
        text: (m, d) embeddings.
        variant: ``distance`` is the length of the gap vector (arXiv 2203.02053), ``squared`` its square,
            ``mean_squared`` its square divided by d, the form of a mean squared error.

    Raises:
        InputError: NaN or infinity, shapes that do not fit, or an unknown variant.
    """
    difference = gap_vector(image, text)
    if variant == "distance":
        return torch.linalg.vector_norm(difference)
    if variant == "squared":
        return difference.square().sum()
    if variant == "mean_squared":
        return difference.square().mean()
    raise InputError(f"variant: expected 'distance', 'squared' or 'mean_squared', got {variant!r}")


def alignment(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, alpha: float = 2.0) -> Float[Tensor, ""]:
    """Mean distance within a pair, to the power ``alpha``; lower is better (arXiv 2005.10242, section 4.1).

    Raises:
        InputError: NaN or infinity, or sides of unequal shape.
    """
    image, text = checked_pair(image, text, paired="alignment")
    return torch.linalg.vector_norm(image - text, dim=1).pow(alpha).mean()


def uniformity(rows: Float[Tensor, "n d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """Log of the mean Gaussian potential of all distinct pairs; lower is more even (arXiv 2005.10242, section 4.1).

    Distances come from blocks of matrix products, so memory grows with n and not with n squared.

    Raises:
        InputError: NaN or infinity, or fewer than two rows.
    """
    rows = checked(rows, name="rows", least=2)
    square = rows.square().sum(dim=1)
    parts = []
    for start in range(0, len(rows) - 1, _BLOCK):
        block = rows[start : start + _BLOCK]
        distance = square[start : start + _BLOCK, None] + square[None, start:] - 2 * block @ rows[start:].T
        later = torch.ones_like(distance, dtype=torch.bool).triu(diagonal=1)
        parts.append(torch.logsumexp(-t * distance[later].clamp_min(0), dim=0))
    return torch.logsumexp(torch.stack(parts), dim=0) - math.log(len(rows) * (len(rows) - 1) / 2)


def effective_rank(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How many directions the rows really use: the exponential of the entropy of their singular values.

    Between 1 (all on one line) and min(n, d) (Roy and Vetterli 2007; RankMe, arXiv 2210.02885, section 3). The mean
    is left in, as there.

    Raises:
        InputError: NaN or infinity, no rows, or rows that are all zero.
    """
    rows = checked(rows, name="rows").double()
    values = torch.linalg.svdvals(rows) if len(rows) < rows.shape[1] else _singular_values(rows)
    total = values.sum()
    if not total > 0:
        raise InputError("effective rank: every row is zero")
    share = values / total
    return torch.exp(torch.special.entr(share).sum())


def _singular_values(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """From the R factor: d x d once n rows are folded in, at full precision."""
    return torch.linalg.svdvals(torch.linalg.qr(rows, mode="r").R)
