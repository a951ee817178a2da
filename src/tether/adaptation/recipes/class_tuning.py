"""What recipes share that train weights of the towers on labelled images against the texts of their classes."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal

from tether.adaptation.recipes.class_step import CROPS, ClassStep
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import Sides, check_own_towers, move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.tuning import Tuning
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, checked
from tether.data.contents import BatchContents

Images = Literal["crops", "plain"]


class ClassTuning(TuneRecipe):
    """Some parameters of a side move, by cross-entropy of the model's own similarities; the logit scale rests."""

    takes = "labels"
    gives = "model"

    @checked
    def __init__(
        self,
        *,
        side: Sides = "image",
        steps: Count = 200,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 1e-5,
        weight_decay: Rate = 0.1,
        images: Images = "crops",
    ) -> None:
        """Take the settings.

        Args:
            side: what moves; where texts rest, their stored embeddings stay valid, and other classes can be asked for.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.
            images: random crops, mirrored in half of the cases (wrong for lettering), or as they are.
        """
        self.side, self.steps, self.batch_size = side, steps, batch_size
        self.learning_rate, self.weight_decay, self.images = learning_rate, weight_decay, images

    @abc.abstractmethod
    def chosen(self, model: DualEncoder) -> Callable[[str], bool]:
        """Which parameters of the side move, asked by their dotted names."""

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        if self.side != "both":
            check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        move_(model, self.side, where=self.chosen(model))
        return Tuning(
            step=ClassStep.of(model, given, texts=self.side != "image"),
            batches=given.loader(model, batch_size=self.batch_size, contents=contents_of(self.images)),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            fixed_images=self.images == "plain",
        )


def contents_of(images: Images) -> BatchContents | None:
    """Random crops, or images as they are."""
    return BatchContents(crops=CROPS) if images == "crops" else None
