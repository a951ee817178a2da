"""Singular values, trained on labelled images against the texts of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

from annotated_types import MinLen
from torch import nn

from tether.adaptation.recipes.class_step import ClassStep
from tether.adaptation.recipes.class_tuning import Images, contents_of
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import Sides, check_own_towers, rest_, sides_of
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.refusals import refused
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Part, Positive, checked
from tether.methods.clip_svd.edit import Svd
from tether.models.features.linear_maps import MAP_KINDS, Depth, MapKind


class SvdRecipe(TuneRecipe):
    """Singular values of the linear maps in both towers, merged at the end; the texts of the classes stay askable.

    Source: arXiv 2509.03740: its rate; its steps are 200 for each shot. A composed encoder adapts its maps as well,
    which is all that moves on the image side of ``starter``.
    """

    takes = "labels"
    gives = "model"
    cost = 110.0
    least = 8

    @checked
    def __init__(
        self,
        *,
        include: Annotated[Sequence[MapKind], MinLen(1)] = MAP_KINDS,
        layers: Depth | Annotated[Sequence[int], MinLen(1)] = "all",
        side: Sides = "both",
        rank_ratio: Part = 1.0,
        steps: Count = 200,
        batch_size: Count = 32,
        learning_rate: Positive = 5e-4,
        images: Images = "crops",
    ) -> None:
        """Take the settings.

        Args:
            include: kinds of maps, see ``Svd``.
            layers: see ``Svd``.
            side: whose maps; those of a side without any are left out of ``both``.
            rank_ratio: share of the singular values that learns, the largest first.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            images: random crops, mirrored in half of the cases (wrong for lettering), or as they are.
        """
        self.edit = Svd(include=include, layers=layers, towers=sides_of(side), rank_ratio=rank_ratio)
        self.side, self.steps, self.batch_size = side, steps, batch_size
        self.learning_rate, self.images = learning_rate, images

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        del case
        return "re-scales the towers' own directions, fewer numbers than low-rank changes, and leaves a model"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        try:
            self.edit.places(model)
        except InputError as error:
            raise refused("no blocks", found=str(error)) from error
        if self.side != "both":
            check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rest_(model)
        self.edit.apply_(cast(nn.Module, model))
        return Tuning(
            step=ClassStep.of(model, given, texts=self.side != "image"),
            batches=given.loader(model, batch_size=self.batch_size, contents=contents_of(self.images)),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            edits=[self.edit],
            fixed_images=self.images == "plain",
        )
