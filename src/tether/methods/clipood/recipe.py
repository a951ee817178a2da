"""CLIPood: the image tower on labelled images by a margin of texts, averaged over its whole way."""

from __future__ import annotations

from typing import cast

from torch import nn

from tether.adaptation.recipes.class_tuning import Images, contents_of
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import refused
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, PositiveRate, Rate, checked
from tether.methods.clipood.beta_moving_average import BETA, BetaMovingAverage
from tether.methods.clipood.finetune import LEARNING_RATE, WEIGHT_DECAY, MarginStep
from tether.methods.clipood.loss import MARGIN, MarginMetricSoftmax


class ClipoodRecipe(TuneRecipe):
    """Classes whose texts lie far from the right one must be beaten by more, and the weights are averaged.

    Source: arXiv 2302.00864; the parts are ``MarginMetricSoftmax`` and ``BetaMovingAverage``.
    """

    takes = "labels"
    gives = "model"
    cost = 160.0

    @checked
    def __init__(
        self,
        *,
        margin: NonNegative = MARGIN,
        beta: Positive = BETA,
        steps: Count = 500,
        batch_size: Count = 36,
        learning_rate: PositiveRate = LEARNING_RATE,
        weight_decay: Rate = WEIGHT_DECAY,
        images: Images = "crops",
    ) -> None:
        """Take the settings; the defaults are the release's, but for the number of steps, which is 500 an epoch there.

        Args:
            margin: see ``MarginMetricSoftmax``.
            beta: see ``BetaMovingAverage``; below 1 start and end weigh most.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.
            images: random crops, mirrored in half of the cases, or as they are.
        """
        self.margin, self.beta, self.steps, self.batch_size = margin, beta, steps, batch_size
        self.learning_rate, self.weight_decay, self.images = learning_rate, weight_decay, images

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        if not geometry_of(model).unit:
            raise refused("geometry", found=geometry_of(model).name)
        check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        moving = move_(model, "image")
        scale = float(model.logit_scale.detach())
        loss = MarginMetricSoftmax(given.class_text.to(model.logit_scale.device), margin=self.margin, logit_scale=scale)
        average = BetaMovingAverage(cast(nn.Module, model), total_steps=self.steps, beta=self.beta, only=list(moving))
        return Tuning(
            step=MarginStep(loss),
            batches=given.loader(model, batch_size=self.batch_size, contents=contents_of(self.images)),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            kept={"average": average},
            after_step=lambda report: average.update_(),
            finish=lambda: Outcome(model=cast(DualEncoder, average.model)),
        )
