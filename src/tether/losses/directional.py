"""How far rows have moved in another direction than the one that is wanted (StyleGAN-NADA, arXiv 2108.00946)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Of (n, d) and (n, d) rows: n numbers, 1 where they agree."""

_LEAST = 1e-6
"""Length of a difference of texts below which it is no direction."""
_STILL = 1e-3
"""Length of a difference of images below which they have not moved: its direction would have a gradient beyond all
others, which Adam would remember for a thousand steps."""


def directional_loss(
    img: Float[Tensor, "n d"],
    src: Float[Tensor, "m d"],
    d: Float[Tensor, "k d"],
    *,
    similarity: Similarity = F.cosine_similarity,
) -> Float[Tensor, " n"]:
    """1 - similarity(img - src, d) of each row, from 0 where it moved as wanted to 2 where it moved the other way.

    A row that has not moved, by less than 0.001, has no direction: its loss is 1 - (img - src) . d, of the same sense.

    Args:
        img: rows of images, of length 1 as a rule.
        src: rows of what they were; one for all, or as many as divide n, which then follow one another again and again.
        d: directions that are wanted, of any length: one for all, or as many as divide n.
        similarity: of (n, d) directions of length 1; a cosine, or one along a geodesic
            (``losses.flow_kernel.GeodesicSimilarity``).

    Raises:
        InputError: no rows, rows of another width or number, or a direction of length 0, as between two equal texts.

    Source: arXiv 2108.00946, equation 3; arXiv 2112.00374 takes it to patches.

    Example:
        >>> import torch
        >>> from tether.losses import directional_loss
        >>> rows = torch.eye(3)
        >>> [round(value, 3) + 0 for value in directional_loss(rows[:2], rows[2:], rows[:1] - rows[2:]).tolist()]
        [0.0, 0.5]
    """
    for name, rows in (("img", img), ("src", src), ("d", d)):
        if rows.ndim != 2 or not len(rows) or len(img) % len(rows) or rows.shape[1] != img.shape[1]:
            given = tuple(rows.shape)
            raise InputError(f"{name}: expected rows as wide and as many as the {len(img)} of img, or one, got {given}")
    if bool((d.detach().norm(dim=1) < _LEAST).any()):
        raise InputError("d: expected a direction, got one of length 0, as between two equal texts")
    many = len(img)
    moved = img - src.to(img).repeat(many // len(src), 1)
    wanted = F.normalize(d.to(img), dim=1).repeat(many // len(d), 1)
    still = moved.detach().norm(dim=1, keepdim=True) < _STILL
    away = 1 - similarity(F.normalize(torch.where(still, wanted, moved), dim=1), wanted)
    return torch.where(still[:, 0], 1 - (moved * wanted).sum(dim=1), away)
