"""Plain fine-tuning on pairs by CLIP's own loss."""

from __future__ import annotations

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import Sides, check_own_towers, move_
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Tuning
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, checked
from tether.losses import OBJECTIVES
from tether.training.steps.composed import ComposedStep


class PairTuning(TuneRecipe):
    """All weights of a side or of both, by the contrastive loss on your pairs; the logit scale rests.

    The loss is arXiv 2103.00020's. It gives most recall on the pairs' own kind; ``--interpolate`` forgets less.
    """

    takes = "pairs"
    gives = "model"
    cost = 150.0
    least = 200

    @checked
    def __init__(
        self,
        *,
        side: Sides = "both",
        steps: Count = 200,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 1e-5,
        weight_decay: Rate = 0.1,
    ) -> None:
        """Take the settings.

        Args:
            side: what moves.
            steps: of the run.
            batch_size: pairs of a step, each other's negatives.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.
        """
        self.side, self.steps, self.batch_size = side, steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        return f"{case.rows} pairs teach the towers your kind of images and captions"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        if self.side != "both":
            check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        move_(model, self.side)
        return Tuning(
            step=ComposedStep(OBJECTIVES["clip"](), steps=self.steps, seed=given.seed),
            batches=given.loader(model, batch_size=self.batch_size),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            fixed_images=True,
        )
