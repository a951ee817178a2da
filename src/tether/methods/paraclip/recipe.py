"""ParaCLIP: the text tower learns that paraphrases mean the same; images rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Rate, checked
from tether.core.types import Batch, Loss
from tether.methods.paraclip import ParaphrasePairs, RuleParaphraser
from tether.methods.paraclip.loss import LEAST_ROWS
from tether.methods.paraclip.step import LEARNING_RATE, WEIGHT_DECAY, ParaclipStep, paraphrase_batches
from tether.training.steps.module import Encoder, InsideStep, StepModule
from tether.training.tensor_batches import ReplayedBatches


class Paraphrases(TuneRecipe):
    """Two paraphrases of each caption by rules for English; image, caption and paraphrases must stay together.

    Source: arXiv 2402.15120; the parts are ``ParaphrasePairs`` and ``ParaclipStep``. Stored embeddings of images stay
    valid. Recall of the captions' own wording pays for it.
    """

    takes = "pairs"
    gives = "model"
    cost = 60.0

    @checked
    def __init__(
        self,
        *,
        weights: Sequence[NonNegative] = (1.0, 1.0, 1.0),
        words: str | None = None,
        steps: Count = 200,
        batch_size: Count = 64,
        learning_rate: PositiveRate = LEARNING_RATE,
        weight_decay: Rate = WEIGHT_DECAY,
    ) -> None:
        """Take the settings.

        Args:
            weights: of image and second paraphrase, caption and first, first and second.
            words: a lexicon of your own for the rules, a YAML file; None has the package's.
            steps: of the run.
            batch_size: captions of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.
        """
        self.weights, self.words, self.steps, self.batch_size = tuple(weights), words, steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        paraphraser = RuleParaphraser() if self.words is None else RuleParaphraser(words=self.words)
        captions = [row.texts for block in given.source.blocks() for row in given.source.read(block) if not row.bad]
        pairs = ParaphrasePairs([texts[0] for texts in captions], paraphraser=paraphraser, seed=given.seed)
        if len(pairs) < LEAST_ROWS:
            raise InputError(
                f"recipe paraphrases: {len(pairs)} of {len(captions)} captions have paraphrases (2 to 15 English words "
                f"that the rules know); expected at least {LEAST_ROWS}"
            )
        seen = given.embed(model)
        size = min(max(LEAST_ROWS, self.batch_size), len(pairs))

        def batches() -> Iterator[Batch]:
            generator = torch.Generator().manual_seed(given.seed)
            return paraphrase_batches(
                cast(Encoder, model), pairs, image=seen.image, batch_size=size, generator=generator
            )

        move_(model, "text")
        return Tuning(
            step=PairedParaphrases(ParaclipStep(weights=self.weights)),
            batches=ReplayedBatches(batches),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8},
            weight_decay=self.weight_decay,
        )


class PairedParaphrases(InsideStep):
    """``ParaclipStep`` on the model inside a ``StepModule``; a ``core.protocols.Step``."""

    def __init__(self, step: ParaclipStep) -> None:
        """Args: step: which."""
        self._step = step

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        return self._step(module.model, batch, step=step, gather=gather)
