"""Patches that can be asked: the image tower learns from its own crops, without words (CLIPSelf)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, cast

from annotated_types import Ge, Le
from torch import nn

from tether.adaptation.distill.clipself import SelfDistillStep, Where
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, refused
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.adaptation.weights import interpolate
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, Share, checked
from tether.core.types import ImageSpec
from tether.data.boxes import Unit
from tether.data.contents import BatchContents
from tether.data.region_views import whole_image
from tether.data.regions import MOST
from tether.models.features.dense_regions import Last
from tether.models.load import load
from tether.models.towers.frozen_copy import frozen_copy
from tether.optim.layer_decay import layer_of

Detail = Annotated[int, Ge(1), Le(8)]
_DEEP = 1 << 30  # more blocks than any tower has


class DenseRecipe(TuneRecipe):
    """The patches inside a box come to say what the model says of the box cut out and shown alone.

    Images are enough: no words, labels or boxes. Only the repeated blocks of the image tower move, so patches stay
    where texts are, and the weights that come out lie ``alpha`` of the way from the base. It teaches what the base
    knows of crops; one that never saw parts of images has little to teach. Source: CLIPSelf (arXiv 2310.01403).
    """

    takes = "images"
    gives = "model"
    aims = ("boxes",)
    cost = 250.0

    @checked
    def __init__(
        self,
        *,
        boxes: str | None = None,
        phrases: str | None = None,
        unit: Unit | None = None,
        form: Literal["xyxy", "xywh"] = "xyxy",
        where: Where = "grid",
        max_split: Count = 6,
        most: Annotated[int, Ge(1), Le(MOST)] = 20,
        last: Last = "value",
        teacher: str | None = None,
        detail: Detail = 1,
        alpha: Share = 0.7,
        steps: Count = 400,
        batch_size: Count = 16,
        learning_rate: PositiveRate = 1e-5,
        weight_decay: Rate = 0.1,
    ) -> None:
        """Take the settings.

        Args:
            boxes: column of boxes, learnt from with ``where: boxes`` and asked about in the report; None has none.
            phrases: column of their phrases, by which the report asks.
            unit: see ``data.regions.RegionColumns``.
            form: see ``RegionColumns``.
            where: cells of a random ``grid`` on each image, or its ``boxes``.
            max_split: rows and columns of the grid, at most.
            most: regions of an image, at most.
            last: see ``models.features.dense_regions.Last``.
            teacher: a model for ``tether.load`` that reads the crops, such as the same at its first size; None is the
                base.
            detail: crops are cut from images of so many times the model's size.
            alpha: of the weights, between the base's (0) and those learnt (1); the paper has 0.7 for a ViT-B, 0.95 for
                a ViT-L.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.

        Raises:
            InputError: ``where: boxes`` without their column.
        """
        if where == "boxes" and boxes is None:
            raise InputError("boxes: where: boxes needs the column of the boxes, such as boxes=bbox")
        self.columns = {"most": most, "boxes": boxes, "phrases": phrases, "unit": unit, "form": form}
        self.where: Where = where
        self.last: Last = last
        self.max_split, self.teacher, self.detail, self.alpha = max_split, teacher, detail, alpha
        self.steps, self.batch_size = steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        if not any(map(in_a_block, check_own_towers(model)["image"])):
            raise refused("no blocks", found="image side")

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        start = frozen_copy(cast(nn.Module, model))
        teacher = cast(DualEncoder, start) if self.teacher is None else load(self.teacher)
        if teacher.dim != model.dim:
            raise InputError(
                f"teacher: expected one of the model's joint space, {model.dim} wide, it has {teacher.dim} dimensions"
            )
        cast(nn.Module, teacher).to(model.logit_scale.device).requires_grad_(False)
        move_(model, "image", where=in_a_block)
        regions = {**self.columns, "phrases": None} if self.where == "boxes" else None
        return Tuning(
            step=SelfDistillStep(
                teacher,
                where=self.where,
                max_split=self.max_split,
                most=cast(int, self.columns["most"]),
                last=self.last,
                seed=given.seed,
            ),
            batches=given.loader(
                model,
                batch_size=self.batch_size,
                contents=BatchContents(regions=regions),
                image_spec=detailed(model.image_spec, self.detail),
            ),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            finish=lambda: Outcome(
                model=cast(DualEncoder, interpolate(start, cast(nn.Module, model), share=self.alpha))
            ),
        )


def below_the_output(name: str) -> bool:
    """Whether a parameter of an image tower is none of its last norm and projection, in any library."""
    return layer_of(name, blocks=_DEEP) <= _DEEP


def in_a_block(name: str) -> bool:
    """Whether a parameter of an image tower lies in one of its repeated blocks, in any library."""
    return layer_of(name, blocks=_DEEP) >= 1 and below_the_output(name)


def detailed(spec: ImageSpec, detail: int) -> ImageSpec:
    """How whole images are prepared at so many times a model's size."""
    whole = whole_image(spec)
    return replace(whole, size=(whole.size[0] * detail, whole.size[1] * detail), resized=None)
