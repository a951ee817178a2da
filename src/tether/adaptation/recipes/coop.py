"""Context Optimization: learnt vectors in the place of a prompt's words (CoOp)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.heads.linear import LinearHead
from tether.adaptation.recipes.class_step import class_loss
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.refusals import refused
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import UnsupportedModelError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Whole, checked
from tether.core.types import Batch, Loss
from tether.models.texts.prompts import Prompts
from tether.training.schedules import Cosine
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import TensorBatches

PROMPTS = "prompts"


class CoOp(TuneRecipe):
    """Vectors that stand before the class names, the same for all classes or each class its own; both towers rest.

    ``p(y = i | x)`` is the softmax over the classes of ``cos(text of class i, image) * scale`` (equation 3), and the
    cross-entropy moves the vectors alone. Rate, batch, schedule and the start (deviation 0.02) are the paper's. Images
    are embedded once, ``views`` crops of each, where the paper crops anew in each epoch. What comes of it is a head:
    the learnt text of each class times the scale.

    Source: arXiv 2109.01134, sections 3.2 and 4.1.
    """

    takes = "labels"
    gives = "head"
    cost = 30.0
    least = 2

    @checked
    def __init__(
        self,
        *,
        context: Count = 16,
        per_class: bool = False,
        epochs: Count = 50,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 2e-3,
        views: Whole = 0,
    ) -> None:
        """Take the settings.

        Args:
            context: how many vectors.
            per_class: whether each class has vectors of its own.
            epochs: passes over the images (50 for one shot, 100 up to four, 200 from eight on in the paper).
            batch_size: images of a step.
            learning_rate: of plain SGD, which falls to 0 as a cosine.
            views: random crops that each image is embedded as; 0 embeds it once as it is.
        """
        self.context, self.per_class, self.epochs = context, per_class, epochs
        self.batch_size, self.learning_rate, self.views = batch_size, learning_rate, views

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        if case.least >= 16 or case.classes > 100:
            return ""
        return "learns the prompt in place of its words, from the class names on; towers rest"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        if not geometry_of(model).unit:
            raise refused("geometry", found=geometry_of(model).name)
        try:
            Prompts(model, ["a", "b"], context=1)
        except UnsupportedModelError as error:
            raise refused("text tower", found=error) from error

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rest_(model)
        seen = given.embed(model, views=self.views)
        generator = torch.Generator().manual_seed(given.seed)
        words = _words(given)
        prompts = Prompts(model, words, context=self.context, per_class=self.per_class, generator=generator)
        batches = TensorBatches(
            {"image": F.normalize(seen.image, dim=1), "label": seen.labels}, batch_size=self.batch_size, seed=given.seed
        )
        scale = float(model.logit_scale.detach())

        def finish() -> Outcome:
            with torch.no_grad():
                weight = scale * class_rows(prompts)
            return Outcome(head=LinearHead(weight, classes=given.classes))

        return Tuning(
            step=CoOpStep(scale),
            batches=batches,
            steps=max(1, self.epochs * len(seen.image) // min(self.batch_size, len(seen.image))),
            optimizer={"name": "sgd", "lr": self.learning_rate, "momentum": 0.9},
            weight_decay=5e-4,
            schedule=Cosine(),
            modules={PROMPTS: prompts},
            finish=finish,
        )


class CoOpStep(InsideStep):
    """Cross-entropy of rows of images with the learnt texts of their classes; a ``core.protocols.Step``."""

    def __init__(self, scale: float) -> None:
        """Args: scale: multiplier of the cosines."""
        self._scale = scale

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        text = class_rows(module.heads[PROMPTS])
        return class_loss(self._scale * batch.image.to(text) @ text.T, batch)


def class_rows(prompts: nn.Module) -> Float[Tensor, "c d"]:
    """The learnt text of each class, scaled to length 1."""
    return F.normalize(prompts().pooled, dim=1)


def _words(given: Given) -> dict[str, str]:
    """Name of each class to its words with a full stop behind, as the released code has them."""
    return {name: f"{name.replace('_', ' ')}." for name in given.classes}
