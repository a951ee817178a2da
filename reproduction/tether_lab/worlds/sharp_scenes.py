"""Finer maps of patches on drawn scenes: a small CLIP that knows its shapes, a sharpener, and simple ways beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.tuning import play
from tether.core.masks import NO_CLASS
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.sets.scenes import RenderedScene, render
from tether.evaluate.dense import MaskScores
from tether.methods.featsharp import Sharpener, SharpSegmenter, patch_maps
from tether.methods.featsharp.distill import DOWNSAMPLER, SHARPENER, Downsampler, consistency, draw_views
from tether.methods.featsharp.recipe import SharpenRecipe
from tether.models.features.windows import Windows
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.tasks.segment import DenseSegmenter, ValueSegmenter
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import PHRASES, SIDE

THINGS = (2, 4)
FACTOR = 2
LARGE = FACTOR * SIDE
"""Pixels that scenes are drawn with: the tiles show what the whole, shrunk to the CLIP's size, does not."""
UNLABELLED, ASKED = 500, 200
STEPS, BATCH, VIEWS, KERNEL = 600, 4, 2, 5
AT_ONCE, LOOKS = 20, 2
"""Of the error on new images: images in one forward, and views of each."""

SIMPLE = {
    "bilinear": Windows(),
    "tiles": Windows(size=LARGE, stride=1.0),
    "both": Windows(size=LARGE, stride=1.0, scales=(1.0, 1 / FACTOR)),
    "windows": Windows(size=LARGE),
}
"""Ways to look with nothing learnt: the whole alone, its tiles alone, the mean of both, and windows that overlap."""


Way = Literal["bilinear", "tiles", "sharp"]
WAYS: tuple[Way, ...] = ("bilinear", "tiles", "sharp")


class LargeScenes(IndexedSource):
    """Images without words; ``labels`` and ``phrases`` are for whoever asks about their pixels."""

    def __init__(self, scenes: drawn_shapes.ShapeScenes) -> None:
        """Args: scenes: to draw once more, larger."""
        self.name, self.version = f"large {scenes.name}", scenes.version
        self.phrases = scenes.phrases
        self.drawn: list[RenderedScene] = [render(scene, size=LARGE) for scene in scenes.scenes]

    def __len__(self) -> int:
        """How many."""
        return len(self.drawn)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return Row(f"{self.name}/{index}", self.drawn[index].pixels, ("an image",), {})

    def pixels(self) -> UInt8[Tensor, "n 3 h w"]:
        """All images."""
        return torch.stack([drawn_shapes.tensor_of(one) for one in self.drawn])


@dataclass(frozen=True, slots=True)
class SharpScenes:
    """What all arms of a seed share.

    Attributes:
        model: the CLIP.
        unlabelled: scenes to learn from.
        asked: scenes whose pixels are named, and whose views are foretold.
    """

    model: Clip
    unlabelled: LargeScenes
    asked: LargeScenes


@dataclass(frozen=True, slots=True)
class Arm:
    """What was learnt: a sharpener and what makes its maps coarse again."""

    sharpener: Sharpener
    downsampler: Downsampler


def prepare(lab: Lab) -> SharpScenes:
    """Teach the CLIP and draw scenes."""
    world = drawn_shapes.shape_world(THINGS)
    counts = {"unlabelled": lab.steps(UNLABELLED, 24), "asked for masks": lab.steps(ASKED, 8)}
    made = [
        LargeScenes(drawn_shapes.drawn_scenes(lab, name, count=count, world=world)) for name, count in counts.items()
    ]
    return SharpScenes(drawn_shapes.captioned_base(lab), *made)


def learnt(lab: Lab, bed: SharpScenes, way: Way, *, rate: float) -> Arm:
    """What ``tether adapt --recipe sharpen`` learns from the unlabelled scenes.

    Args:
        lab: seed and budget.
        bed: of the seed.
        way: ``sharp``; or the enlarged map of the whole or the map of the tiles as it is, whose bias and downsampler
            learn alone.
        rate: of learning.
    """
    model = frozen_copy(bed.model)
    recipe = SharpenRecipe(
        inputs=("bilinear", "tiles") if way == "sharp" else (way,),
        kernel=KERNEL,
        views=VIEWS,
        statistics=len(bed.unlabelled),
        steps=lab.steps(STEPS),
        batch_size=BATCH,
        learning_rate=rate,
    )
    tuning = recipe.tuning(model, Given("images", bed.unlabelled, len(bed.unlabelled), seed=lab.seed))
    sharpener = cast(Sharpener, tuning.modules[SHARPENER])
    downsampler = cast(Downsampler, tuning.modules[DOWNSAMPLER])
    if way != "sharp":
        sharpener.block.requires_grad_(False)
        for scale in (sharpener.block.scale1, sharpener.block.scale2):
            scale.zero_()
    play(tuning, model, seed=lab.seed)
    sharpener.eval()
    downsampler.eval()
    return Arm(sharpener, downsampler)


@torch.no_grad()
def view_error(lab: Lab, bed: SharpScenes, arm: Arm) -> float:
    """How far views of new images are foretold: the error over the variance of what the encoder says of them.

    The views are the same for every arm of a seed.
    """
    generator, images = lab.generator("views"), bed.model.image_spec.normalise(bed.asked.pixels())
    error, variance = 0.0, 0.0
    for some in images.split(AT_ONCE):
        high = arm.sharpener(bed.model, some, denormalize=False)[1]
        for _ in range(LOOKS):
            views = draw_views(arm.sharpener, bed.model, some, generator=generator)
            found = consistency(high, views, downsampler=arm.downsampler, factor=FACTOR)
            error += float(found) * len(some)
            variance += float(views.target.var(dim=(0, 2, 3)).mean()) * len(some)
    return error / variance


@torch.no_grad()
def pattern(bed: SharpScenes, arm: Arm, *, bias: bool) -> float:
    """Variance over places of the mean map of all scenes, standardised, with the learnt bias or without it."""
    size = (SIDE, SIDE)
    images = bed.model.image_spec.normalise(torch.cat([bed.unlabelled.pixels(), bed.asked.pixels()]))
    maps = [
        arm.sharpener.standardise(patch_maps(bed.model, torch.nn.functional.interpolate(some, size, mode="bilinear")))
        for some in images.split(AT_ONCE)
    ]
    mean: Float[Tensor, "c r s"] = torch.cat(maps).mean(dim=0)
    if not bias:
        mean = mean - arm.sharpener.bias.bias[0]
    return float(mean.var(dim=(1, 2), correction=0).mean())


def mean_iou(segmenter: DenseSegmenter, bed: SharpScenes, *, windows: Windows) -> float:
    """Over the 24 phrases, of the pixels of things, in percent."""
    segmenter.prepare(bed.model, list(PHRASES), windows=windows)
    scores = MaskScores(list(PHRASES), tolerance=0)
    for drawn, phrases in zip(bed.asked.drawn, bed.asked.phrases, strict=True):
        (masks,) = segmenter.predict([drawn_shapes.tensor_of(drawn)])
        table = np.full(NO_CLASS + 1, NO_CLASS, dtype=np.uint8)
        table[1 : len(phrases) + 1] = [PHRASES.index(phrase) for phrase in phrases]
        scores.add(masks.labels, truth=table[drawn.labels])
    return 100 * scores.report().miou.value


def simple_ious(bed: SharpScenes) -> dict[str, float]:
    """By each of ``SIMPLE``."""
    return {name: mean_iou(ValueSegmenter(), bed, windows=way) for name, way in SIMPLE.items()}


def mean_iou_of(bed: SharpScenes, arm: Arm) -> float:
    """By the places of fine maps."""
    return mean_iou(SharpSegmenter(sharpener=arm.sharpener), bed, windows=Windows())
