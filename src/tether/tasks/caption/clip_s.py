"""CLIP-S and RefCLIP-S of rows, as rewards: no embedding is refused, and what is undefined is 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked

WEIGHT = 2.5
PREFIX = "A photo depicts"


@checked
def clip_s(
    image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, weight: Positive = WEIGHT
) -> Float[Tensor, " n"]:
    """``weight`` times the cosine of each pair, at least 0 (arXiv 2104.08718, section 3); 0 for a row of zeros.

    ``evaluate.clip_score`` is the same as a measure, with checks.

    Args:
        image: rows of any length.
        text: rows of any length, of captions with ``PREFIX`` and a blank before them.
        weight: of the cosine.

    Raises:
        InputError: rows that do not fit.

    Example:
        >>> import torch
        >>> from tether.tasks.caption.clip_s import clip_s
        >>> clip_s(torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, -1.0]])).tolist()
        [2.5, 0.0]
    """
    if image.ndim != 2 or image.shape != text.shape:
        raise InputError(f"CLIP-S: expected rows (n, d) of both, got {tuple(image.shape)} and {tuple(text.shape)}")
    return weight * (F.normalize(image, dim=1) * F.normalize(text, dim=1)).sum(1).clamp_min(0)


@checked
def ref_clip_s(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    references: Float[Tensor, "n r d"],
    *,
    mask: Shaped[Tensor, "n r"] | None = None,
    weight: Positive = WEIGHT,
) -> Float[Tensor, " n"]:
    """Harmonic mean of CLIP-S and the best reference's score, which has the same weight as in the release.

    0 where either is 0, and so where every reference is padding. The measure of arXiv 2104.08718
    (``evaluate.clip_score.ref_clip_score``) takes the plain cosine of the reference.

    Args:
        image: rows of any length.
        text: rows of any length.
        references: of each pair, padded to as many.
        mask: 1 or True for a reference, 0 or False for padding; None takes all.
        weight: of both cosines.

    Raises:
        InputError: rows that do not fit.

    Example:
        >>> import torch
        >>> from tether.tasks.caption.clip_s import ref_clip_s
        >>> rows = torch.eye(2)
        >>> ref_clip_s(rows, rows, rows[:, None], mask=torch.tensor([[1], [0]])).tolist()
        [2.5, 0.0]
    """
    score = clip_s(image, text, weight=weight)
    shape = (len(text), references.shape[1] if references.ndim == 3 else -1)
    if references.shape != (*shape, text.shape[1]) or (mask is not None and mask.shape != shape):
        got = f"{tuple(references.shape)} and {None if mask is None else tuple(mask.shape)}"
        raise InputError(f"RefCLIP-S: expected references (n, r, d) and a mask (n, r) if any, got {got}")
    near = weight * torch.einsum("nd,nrd->nr", F.normalize(text, dim=1), F.normalize(references, dim=2)).clamp_min(0)
    near = near if mask is None else near * (mask != 0).to(near)
    best = near.amax(1) if shape[1] else torch.zeros_like(score)
    total = score + best
    return torch.where(score * best > 0, 2 * score * best / total.clamp_min(torch.finfo(total.dtype).tiny), 0)
