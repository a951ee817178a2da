"""A text tower that is not thrown by typos, from texts alone."""

from __future__ import annotations

from typing import Literal, cast

import torch

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Tuning
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.methods.leaf.robust import LEARNING_RATE, ROW, WEIGHT_DECAY, LeafLoss, LeafStep
from tether.methods.leaf.typos import WordConstraint
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.schedules import Cosine
from tether.training.tensor_batches import TensorBatches

WARMUP = 1400  # released scripts; at most a tenth of a run here


class TypoProof(TuneRecipe):
    """The text tower learns to give attacked texts the rows that it gave the clean ones; images need no new rows.

    Source: arXiv 2506.03355 and its released scripts, whose settings are the defaults, but for the number of steps.
    """

    takes = "texts"
    gives = "model"
    aims = ("typos",)
    cost = 500.0
    least = 1

    @checked
    def __init__(
        self,
        *,
        attack: Literal["leaf", "random"] = "leaf",
        rho: Count = 50,
        k: Count = 1,
        words: Literal["strict", "le", "any"] = "strict",
        cut: Literal["refuse", "allow"] = "refuse",
        steps: Count = 500,
        batch_size: Count = 128,
        learning_rate: Positive = LEARNING_RATE,
        weight_decay: NonNegative = WEIGHT_DECAY,
    ) -> None:
        """Take the settings.

        Args:
            attack: see ``LeafLoss``.
            rho: see ``LeafLoss``.
            k: see ``LeafLoss``.
            words: rule of the ``WordConstraint`` of the words of the given texts; ``any`` sets none.
            cut: see ``LeafLoss``.
            steps: of the run.
            batch_size: texts of a step.
            learning_rate: after a warm-up; it falls to 0 as a cosine.
            weight_decay: of matrices.
        """
        self.attack, self.rho, self.k, self.words, self.cut = attack, rho, k, words, cut
        self.steps, self.batch_size = steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        del case
        return "makes the text side stand typos, from texts alone"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        reference = frozen_copy(cast("Clip | WrappedEncoder", model))
        move_(model, "text")
        read = (row for block in given.source.blocks() for row in given.source.read(block))
        texts = list(dict.fromkeys(text for row in read for text in row.texts if text.strip()))
        constraint = None if self.words == "any" else WordConstraint.of(texts, rule=self.words)
        loss = LeafLoss(reference, attack=self.attack, rho=self.rho, k=self.k, constraint=constraint, cut=self.cut)
        return Tuning(
            step=LeafStep(loss, texts, seed=given.seed),
            batches=TensorBatches({ROW: torch.arange(len(texts))}, batch_size=self.batch_size, seed=given.seed),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            schedule=Cosine(warmup=min(WARMUP, self.steps // 10)),
        )
