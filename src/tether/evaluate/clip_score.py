"""How well a caption fits its image, with and without reference captions (arXiv 2104.08718)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry
from tether.evaluate.checks import checked_pair, checked_rows

WEIGHT = 2.5  # section 3: stretches typical cosines over [0, 1]
PREFIX = "A photo depicts "  # section 3: what is put before each caption before it is encoded


def clip_score(
    image: Float[Tensor, "n d"],
    caption: Float[Tensor, "n d"],
    *,
    weight: float = WEIGHT,
    geometry: Geometry = COSINE,
) -> Float[Tensor, " n"]:
    """``weight`` times the cosine of image and caption, at least 0, for each pair.

    For a model with an inner product its own similarity takes the cosine's place. Distances have no score: with a minus
    sign they are never above 0, and every pair would get 0.

    The captions should have been encoded with ``PREFIX`` before them; numbers of different models do not compare.

    Args:
        image: (n, d) embeddings of any length.
        caption: (n, d) embeddings of any length.
        weight: of the cosine.
        geometry: what the model compares with.
    """
    image, caption = checked_pair(image, caption, paired="CLIPScore")
    if geometry.unit:
        return weight * F.cosine_similarity(image, caption, dim=1).clamp_min(0)
    if geometry.never_positive:
        raise InputError(f"CLIPScore: similarities of {geometry.name} are never above 0, so every pair would score 0")
    return weight * geometry.paired(image, caption).clamp_min(0)


def ref_clip_score(
    image: Float[Tensor, "n d"],
    caption: Float[Tensor, "n d"],
    *,
    references: Float[Tensor, "r d"],
    counts: Int[Tensor, " n"],
    weight: float = WEIGHT,
    negative: Literal["zero", "keep"] = "zero",
) -> Float[Tensor, " n"]:
    """Harmonic mean of CLIPScore and the caption's best cosine with its references; 0 where their sum is not positive.

    Args:
        image: (n, d) embeddings.
        caption: (n, d) embeddings.
        references: (r, d) embeddings of all reference captions, those of the first pair first.
        counts: (n,) how many references each pair has, at least 1 each, r in all.
        weight: of CLIPScore.
        negative: what becomes of a best cosine below 0: ``zero`` as the paper has it (section 3), ``keep`` as the
            released clipscore.py does, which makes the mean negative.
    """
    score = clip_score(image, caption, weight=weight)
    caption, references = checked_pair(caption, checked_rows(references, name="references"))
    if counts.shape != (len(caption),) or counts.is_floating_point() or int(counts.min()) < 1:
        raise InputError(f"counts: expected ({len(caption)},) integers of at least 1, got {counts.tolist()}")
    if int(counts.sum()) != len(references):
        raise InputError(f"counts: they add up to {int(counts.sum())}, but there are {len(references)} references")
    owner = torch.repeat_interleave(torch.arange(len(caption), device=caption.device), counts)
    cosine = F.cosine_similarity(caption[owner], references, dim=1)
    best = torch.full((len(caption),), -torch.inf, dtype=cosine.dtype, device=cosine.device)
    best = best.scatter_reduce(0, owner, cosine, "amax")
    if negative == "zero":
        best = best.clamp_min(0)
    total = score + best
    return torch.where(total > 0, 2 * score * best / total.clamp_min(torch.finfo(total.dtype).tiny), 0)
