"""Where in an image an embedding's class comes from: heat maps and masks from the contributions of its patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.decomposition import Decomposition
from tether.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Foreground of each image by its own class.

    Attributes:
        classes: (b,) the class each image was given.
        heat: (b, h, w) from 0 to 1; all 0 where no patch speaks for the class more than for the others.
        mask: (b, h, w) True where the heat is above its mean.
    """

    classes: Int[Tensor, " b"]
    heat: Float[Tensor, "b h w"]
    mask: Bool[Tensor, "b h w"]


def patch_scores(
    parts: Decomposition, *, weights: Float[Tensor, "c d"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b n"]:
    """How much each patch speaks for a class, beyond what it says for all classes on average.

    Source: arXiv 2310.05916, section 5, and its released compute_segmentations.py.

    Args:
        parts: of the images, with their tokens: ``decompose(..., reduce="heads")`` is enough.
        weights: unit text embedding of each class; with one class alone every score is zero.
        classes: which class to ask about; the best of the whole embedding if None.

    Returns:
        (b, patches), row by row from the top left, for all layers and heads together.
    """
    if weights.ndim != 2 or weights.shape[1] != parts.mlp.shape[-1] or not len(weights):
        raise InputError(f"weights: expected (c, {parts.mlp.shape[-1]}), got {tuple(weights.shape)}")
    weights = weights.to(parts.mlp)
    if not weights.isfinite().all():
        raise InputError("weights: hold NaN or infinity")
    scores = parts.tokens[:, :, parts.class_tokens :].sum(1) @ weights.T
    chosen = best_class(parts, weights=weights) if classes is None else classes
    if chosen.shape != (len(scores),) or chosen.is_floating_point():
        raise InputError(f"classes: expected ({len(scores)},) whole numbers, got {chosen.dtype} {tuple(chosen.shape)}")
    if int(chosen.min()) < 0 or int(chosen.max()) >= len(weights):
        raise InputError(f"classes: expected 0 to {len(weights) - 1}, got {int(chosen.min())} to {int(chosen.max())}")
    own = scores.gather(2, chosen.to(scores.device).view(-1, 1, 1).expand(-1, scores.shape[1], 1))[..., 0]
    return own - scores.mean(2)


def best_class(parts: Decomposition, *, weights: Float[Tensor, "c d"]) -> Int[Tensor, " b"]:
    """The class whose weights the whole embedding is most similar to."""
    return (parts.total() @ weights.to(parts.mlp).T).argmax(1)


def segment_by_parts(
    parts: Decomposition,
    *,
    weights: Float[Tensor, "c d"],
    size: tuple[int, int],
    grid: tuple[int, int] | None = None,
    classes: Int[Tensor, " b"] | None = None,
) -> Segmentation:
    """Foreground masks without any training: the scores of the patches, enlarged and cut at their mean.

    Scores below zero count as zero; each image's are then stretched from 0 to 1. Source: arXiv 2310.05916, section 5.

    Args:
        parts: as for ``patch_scores``.
        weights: as for ``patch_scores``.
        size: height and width of the masks in pixels.
        grid: patches down and across; None takes those that fit the shape of the masks.
        classes: as for ``patch_scores``.
    """
    if classes is None:
        classes = best_class(parts, weights=weights)
    scores = patch_scores(parts, weights=weights, classes=classes)
    heat = stretched(scores, grid=grid_of(scores.shape[1], size=size) if grid is None else grid, size=size)
    return Segmentation(classes, heat, heat > heat.mean((1, 2), keepdim=True))


def grid_of(patches: int, *, size: tuple[int, int]) -> tuple[int, int]:
    """Patches down and across for square patches that cover an image of this height and width."""
    rows = max(1, round((patches * size[0] / size[1]) ** 0.5))
    columns = max(1, round(patches / rows))
    if rows * columns != patches:
        raise InputError(f"{patches} patches do not cover {size[0]} x {size[1]} pixels in squares; give their grid")
    return rows, columns


def stretched(scores: Float[Tensor, "b n"], *, grid: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "b h w"]:
    """Patch scores as an image: enlarged bilinearly, negatives cut off, each image from 0 to 1."""
    if grid[0] * grid[1] != scores.shape[1]:
        raise InputError(f"grid: expected {scores.shape[1]} patches, got {grid[0]} x {grid[1]}")
    coarse = scores.unflatten(1, grid)[:, None]
    heat = F.interpolate(coarse, size=size, mode="bilinear")[:, 0].clamp_min(0)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return torch.where(high > low, (heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).tiny), 0.0)
