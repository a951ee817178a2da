"""Half of the patches by a simple rule, no model asked: the middle of the image, or where its pixels differ most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.losses import ClipLoss
from tether.models import Clip
from tether.models.towers.patch_selection import AttentiveTokens
from tether.training.steps.composed import ComposedStep
from tether.training.steps.views import ImageView, ViewRows
from tether_lab.worlds.few_tokens import BATCH, PATCH, SIDE, Told, pruned_to_
from tether_lab.worlds.in_memory import fit_batches, shuffled

GRID = (SIDE // PATCH, SIDE // PATCH)

Scores = Callable[[UInt8[Tensor, "n 3 h w"]], Float[Tensor, "n p"]]
"""One number for each patch of each image; the half with the largest is seen."""


def nearness(pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p"]:
    """Larger, the nearer a patch is to the middle; the same for every image."""
    along = torch.linspace(-1, 1, GRID[0]) ** 2
    return -(along[:, None] + along).flatten().expand(len(pixels), -1)


def variance(pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n p"]:
    """Variance of each patch's pixels, the mean over colours."""
    patches = pixels.float().unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return patches.flatten(4).var(dim=4).mean(dim=1).flatten(1)


def best_half(scores: Float[Tensor, "n p"]) -> Tensor:
    """(n, p / 2) the patches with the largest scores."""
    return AttentiveTokens(pool=1, rule="truncate")(scores, grid=GRID)


def fit_picked(
    model: Clip, seen: Told, scores: Scores, *, seed: int, steps: int, rate: float, full_last: float
) -> Clip:
    """Fit with the patches that score most, until the last share of the steps sees all."""
    tokens = pruned_to_(model, seen.captions)
    step = ComposedStep(ClipLoss(), steps=steps, seed=seed, views={"image": {}, "text": {}})
    step.views["image"] = _PickedView(scores, full_last=full_last, steps=steps, seed=seed, view="image")
    batches = shuffled(seen.pixels, tokens, size=BATCH, generator=torch.Generator().manual_seed(seed))
    fit_batches(model, step, batches, steps=steps, warmup=max(1, steps // 10), learning_rate=rate)
    model.restore_vocabulary_()
    return model


class _PickedView(ImageView):
    """Images of which a rule picks the patches."""

    def __init__(self, scores: Scores, **settings: Any) -> None:
        super().__init__(**settings)
        self._scores = scores

    def _seen(self, *args: Any, step: int, **more: Any) -> ViewRows:
        seen = super()._seen(*args, step=step, **more)
        return seen if step >= self.full_from else replace(seen, keep=best_half(self._scores(seen.rows)))
