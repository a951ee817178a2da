"""Masks of one piece: a head on a frozen encoder learns which patches belong together, from images alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.recipes.class_step import CROPS
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Layer, Positive, PositiveRate, Rate, checked
from tether.data.contents import BatchContents
from tether.methods.clip_dinoiser.distill import HEAD, ColourTeacher, GroupingStep, PatchTeacher, ValueTeacher
from tether.methods.clip_dinoiser.head import GroupingHead
from tether.methods.clip_dinoiser.patch_affinity import Cosine
from tether.models.features.patch_grouping import THIRD_FROM_THE_END, DinoiserHead, inner_map
from tether.models.features.penultimate import patch_grid
from tether.models.load import load

COLOURS = "colours"


class GroupingRecipe(TuneRecipe):
    """A small head learns which patches of an image belong together, for ``tether segment --head``.

    Images are enough. What belongs together a teacher says: another model, such as a DINO, whose patches of one thing
    are alike, or, for who has none, colours and places, which know nothing of things. The encoder rests.

    Source: CLIP-DINOiser (arXiv 2312.12359). There DINO and FOUND teach, 6,300 steps of 16 images at rates of 5e-5 and
    1e-2 that fall to a tenth after 5,000; here the rate falls as a cosine, a small run's is higher, and without a model
    of salient things the background is what most patches are alike to.
    """

    takes = "images"
    gives = "head"
    used_by = "segment"
    used_as = "--with dinoiser --head {folder} --classes NAMES --out masks"
    simpler = "tether segment --with dinoiser, which needs no head"
    cost = 100.0

    @checked
    def __init__(
        self,
        *,
        teacher: str = COLOURS,
        teacher_mean: Literal["kept", "removed"] = "kept",
        threshold: Cosine = 0.2,
        gamma: Cosine = 0.2,
        temperature: Positive = 1.0,
        layer: Layer = THIRD_FROM_THE_END,
        dim: Count = 256,
        kernel: Count = 3,
        images: Literal["plain", "crops"] = "crops",
        steps: Count = 400,
        batch_size: Count = 16,
        learning_rate: PositiveRate = 1e-3,
        things_rate: PositiveRate = 1e-2,
        weight_decay: Rate = 0.01,
    ) -> None:
        """Take the settings.

        Args:
            teacher: ``colours``, or a model for ``tether.load``, such as one around a DINO.
            teacher_mean: whether the mean over an image's patches is taken from a model's; right for towers that were
                not taught as DINO's, whose patches all look alike.
            threshold: cosine of the teacher from which on patches belong together.
            gamma: the same of the head, once taught.
            temperature: of the loss, see ``losses.dinoiser_loss``.
            layer: block whose patches are read, see ``models.features.patch_grouping.inner_and_tokens``.
            dim: of the head's keys.
            kernel: side of its convolution, odd.
            images: as they are, or random crops, mirrored in half of the cases.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: of the convolution that says what belongs together.
            things_rate: of the one that says where things are.
            weight_decay: of both.
        """
        self.teacher, self.teacher_mean, self.threshold, self.gamma = teacher, teacher_mean, threshold, gamma
        self.temperature, self.layer, self.dim, self.kernel, self.images = temperature, layer, dim, kernel, images
        self.steps, self.batch_size, self.weight_decay = steps, batch_size, weight_decay
        self.learning_rate, self.things_rate = learning_rate, things_rate

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        self._features(model)
        DinoiserHead(features=1, dim=1, kernel=self.kernel)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        if self.teacher == COLOURS:
            return self.describe(model, given, teacher=ColourTeacher(grid=patch_grid(model)))
        other = load(self.teacher)
        cast(torch.nn.Module, other).to(model.logit_scale.device).eval().requires_grad_(False)
        return self.describe(model, given, teacher=ValueTeacher(other, less_mean=self.teacher_mean == "removed"))

    def describe(
        self,
        model: DualEncoder,
        given: Given,
        *,
        teacher: PatchTeacher,
        saliency: Callable[[Tensor], Float[Tensor, "b 1 r s"]] | None = None,
    ) -> Tuning:
        """The tuning by any teacher, see ``methods.clip_dinoiser.distill.GroupingStep``."""
        rest_(model)
        generator = torch.Generator().manual_seed(given.seed)
        head = DinoiserHead(features=self._features(model), dim=self.dim, kernel=self.kernel, generator=generator)
        rates = ((head.obj_proj, self.learning_rate), (head.bkg_decoder, self.things_rate))
        return Tuning(
            step=GroupingStep(
                teacher,
                saliency=saliency,
                threshold=self.threshold,
                temperature=self.temperature,
                layer=self.layer,
            ),
            batches=given.loader(
                model,
                batch_size=self.batch_size,
                contents=BatchContents(crops=CROPS if self.images == "crops" else None),
                image_spec=model.image_spec.fixed(),
            ),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            groups=[
                {"params": list(part.parameters()), "lr": rate, "weight_decay": self.weight_decay}
                for part, rate in rates
            ],
            training=[head],
            modules={HEAD: head},
            finish=lambda: Outcome(head=GroupingHead(head, grid=patch_grid(model), layer=self.layer, gamma=self.gamma)),
        )

    def _features(self, model: DualEncoder) -> int:
        size = model.image_spec.fixed().size
        blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.logit_scale.device)
        with torch.no_grad():
            return int(inner_map(model, blank, layer=self.layer).shape[1])
