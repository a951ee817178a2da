"""CLIP-Refine: pairs pulled together by shared random vectors, held by the model's own former judgement."""

from __future__ import annotations

from typing import Literal, cast

import torch

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import move_
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.tuning import Tuning
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, PositiveRate, Rate, checked
from tether.methods.clip_refine.refine import LEARNING_RATE, WEIGHT_DECAY, RefineStep
from tether.methods.clip_refine.step import ClipRefineLoss
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.schedules import Constant
from tether.training.steps.module import Encoder


class CloseTheGap(TuneRecipe):
    """A short stage on pairs that brings images and texts nearer; recall may fall a little.

    Source: arXiv 2504.12717; the parts are ``ClipRefineLoss`` and ``RefineStep``, whose docstrings say when the
    embeddings' length asks for ``feature_scale="normalised"``.
    """

    takes = "pairs"
    gives = "model"
    aims = ("gap",)
    cost = 200.0
    least = 2000

    @checked
    def __init__(
        self,
        *,
        lambda_rand: NonNegative = 1.0,
        lambda_kd: NonNegative = 1.0,
        lambda_cont: NonNegative = 0.0,
        temperature: Positive = 1.0,
        feature_scale: Literal["raw", "normalised"] = "raw",
        steps: Count = 100,
        batch_size: Count = 64,
        learning_rate: PositiveRate = LEARNING_RATE,
        weight_decay: Rate = WEIGHT_DECAY,
    ) -> None:
        """Take the settings.

        Args:
            lambda_rand: weight of the random vectors.
            lambda_kd: weight of the distillation.
            lambda_cont: weight of CLIP's loss.
            temperature: of the distillation.
            feature_scale: see ``ClipRefineLoss``.
            steps: of the run; long ones shrink the embeddings.
            batch_size: pairs of a step.
            learning_rate: constant.
            weight_decay: of matrices.
        """
        self._loss = {"lambda_rand": lambda_rand, "lambda_kd": lambda_kd, "lambda_cont": lambda_cont}
        self._temperature, self._scale = temperature, feature_scale
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.weight_decay = weight_decay

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        del case
        return "brings the centres of images and texts together, for what compares across them"

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        teacher = frozen_copy(cast(Encoder, model))
        move_(model, "both")
        generator = torch.Generator().manual_seed(given.seed)
        loss = ClipRefineLoss(
            **self._loss, temperature=self._temperature, feature_scale=self._scale, generator=generator
        )
        return Tuning(
            step=RefineStep(loss, teacher=teacher, steps=self.steps),
            batches=given.loader(model, batch_size=self.batch_size),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8},
            weight_decay=self.weight_decay,
            schedule=Constant(),
        )
