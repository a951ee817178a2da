"""Fine maps of patches: a sharpener on a frozen encoder learns from images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import refused
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, checked
from tether.methods.featsharp import AttentionDownsampler, Patches, Sharpener, SimpleDownsampler
from tether.methods.featsharp.distill import DOWNSAMPLER, SHARPENER, SharpenStep, fit_statistics_
from tether.methods.featsharp.fuse import Input
from tether.methods.featsharp.head import SharpenerHead
from tether.methods.featsharp.phi_s import hadamard
from tether.models.features.penultimate import patch_grid
from tether.training.schedules import Constant

LOOKED_AT = 32
"""Images in one forward, where the statistics of patches are taken."""


class SharpenRecipe(TuneRecipe):
    """A sharpener learns to make finer maps of the encoder's patches, for ``tether segment --sharpen``.

    Images are enough. Each is looked at as a whole and in enlarged tiles. A small attention block makes a fine map of
    both, which must, seen in a random perspective and made coarse again, say what the encoder says of the image in that
    perspective. The encoder rests.

    Source: FeatSharp (arXiv 2502.16025) and its released code: Adam at 5e-4 after 100 steps of warm-up, 3,000 to 9,000
    steps of 4 images.
    """

    takes = "images"
    gives = "head"
    used_by = "segment"
    used_as = "--sharpen {folder} --classes NAMES --out masks"
    simpler = "tether segment --size with twice the model's size, which needs no head"
    cost = 300.0

    @checked
    def __init__(
        self,
        *,
        factor: Annotated[int, Ge(1), Le(8)] = 2,
        inputs: Sequence[Input] = ("bilinear", "tiles"),
        patches: Patches = "values",
        heads: Count = 16,
        window: Count = 7,
        downsampler: Literal["attention", "simple"] = "attention",
        kernel: Count = 9,
        views: Count = 5,
        variation: NonNegative = 0.0,
        statistics: Count = 2000,
        steps: Count = 3000,
        batch_size: Count = 4,
        learning_rate: PositiveRate = 5e-4,
        warmup: Count = 100,
    ) -> None:
        """Take the settings.

        Args:
            factor: rows and columns of fine maps against those of patches; 1 takes noise away alone.
            inputs: of the block, see ``FusionBlock``.
            patches: what of the encoder the maps are, see ``Patches``.
            heads: see ``FusionBlock``.
            window: see ``FusionBlock``.
            downsampler: what makes maps coarse again in training, with a kernel for each place or one for all.
            kernel: side of its window in places, odd.
            views: of each image in a step.
            variation: weight of the total variation of fine maps.
            statistics: images by which the channels of maps are standardised.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: after the warm-up; it stays.
            warmup: steps; at most a quarter of the run.
        """
        self.factor, self.inputs, self.patches, self.heads, self.window = factor, inputs, patches, heads, window
        self.downsampler, self.kernel = downsampler, kernel
        self.step = SharpenStep(views=views, variation=variation)
        self.statistics, self.steps, self.batch_size = statistics, steps, batch_size
        self.learning_rate, self.warmup = learning_rate, warmup

    def check(self, model: DualEncoder) -> None:
        """See Recipe.

        Raises:
            InputError: also a kernel of even side or heads that do not divide.
        """
        try:
            hadamard(model.dim)
        except InputError as error:
            raise refused("hadamard", found=error) from error
        self._sharpener(model, seed=0)
        self._downsampler(1, generator=None)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rest_(model)
        spec = model.image_spec.fixed()
        sharpener = self._sharpener(model, seed=given.seed)
        looked = given.loader(model, batch_size=LOOKED_AT, image_spec=spec)
        count = min(self.statistics, given.rows)
        fit_statistics_(
            sharpener, model, (batch.image for batch in looked), most=-(-count // min(LOOKED_AT, given.rows))
        )
        downsampler = self._downsampler(model.dim, generator=torch.Generator().manual_seed(given.seed + 1))
        large = (spec.size[0] * self.factor, spec.size[1] * self.factor)
        return Tuning(
            step=SharpenStep(views=self.step.views, variation=self.step.variation, seed=given.seed),
            batches=given.loader(model, batch_size=self.batch_size, image_spec=replace(spec, size=large, resized=None)),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            schedule=Constant(warmup=max(1, min(self.warmup, self.steps // 4))),
            training=[sharpener, downsampler],
            modules={SHARPENER: sharpener, DOWNSAMPLER: downsampler},
            finish=lambda: Outcome(head=SharpenerHead(sharpener)),
        )

    def _sharpener(self, model: DualEncoder, *, seed: int) -> Sharpener:
        return Sharpener(
            model.dim,
            grid=patch_grid(model),
            factor=self.factor,
            inputs=self.inputs,
            heads=self.heads,
            window=self.window,
            patches=self.patches,
            generator=torch.Generator().manual_seed(seed),
        )

    def _downsampler(
        self, channels: int, *, generator: torch.Generator | None
    ) -> AttentionDownsampler | SimpleDownsampler:
        if self.downsampler == "simple":
            return SimpleDownsampler(kernel=self.kernel)
        return AttentionDownsampler(channels, kernel=self.kernel, generator=generator)
