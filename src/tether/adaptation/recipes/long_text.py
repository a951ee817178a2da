"""Longer texts: more positions, of which the first rest, tuned on long captions and their first sentences."""

from __future__ import annotations

from typing import cast

import torch

from tether.adaptation.finetune.kept_positions import KeptPositions, position_table
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, refused
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Rate, checked
from tether.losses import OBJECTIVES
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.sizes import MAX_CONTEXT
from tether.optim.clip import GlobalNorm
from tether.training.schedules import Cosine
from tether.training.steps.composed import ComposedStep

Encoder = Clip | WrappedEncoder
SAME = 0.999
"""Least cosine of a short text before and after it has more positions."""


class LongTextRecipe(TuneRecipe):
    """A model of 77 tokens learns to read 248: its first positions rest, the others are spread out and trained.

    Whole images meet whole captions, and their main directions the captions' first sentences, so that short texts keep
    their meaning. Both towers move, the logit scale rests. For long runs take ``tether train --recipe long-text``.

    Source: Long-CLIP (arXiv 2403.15378), with the rates of its released code.
    """

    takes = "pairs"
    gives = "model"
    rebuilds = True
    cost = 250.0

    @checked
    def __init__(
        self,
        *,
        context: Count | None = None,
        keep: Count = 20,
        ratio: Count = 4,
        k: Count | None = None,
        short_weight: NonNegative = 1.0,
        steps: Count = 300,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 1e-6,
        weight_decay: Rate = 0.01,
    ) -> None:
        """Take the settings.

        Args:
            context: tokens that it reads afterwards; default ``keep + ratio * (c - keep)`` of c now.
            keep: positions that rest, at most c - 2.
            ratio: positions for each of the others.
            k: see ``LongClipLoss``; default an eighth of the batch.
            short_weight: see ``LongClipLoss``.
            steps: of the run.
            batch_size: pairs of a step, each other's negatives.
            learning_rate: after a warm-up over a tenth of the steps, 200 at most; it falls to 0 as a cosine.
            weight_decay: of matrices.
        """
        self.context, self.keep, self.ratio = context, keep, ratio
        self.k, self.short_weight, self.steps, self.batch_size = k, short_weight, steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        position_table(cast(Encoder, model))
        long, text = self._longer(cast(Encoder, model)), ["a"]
        with torch.no_grad():
            now, then = (one.encode_text(one.tokenizer(text).to(one.logit_scale.device)).unit for one in (model, long))
        if (same := float((now * then).sum())) < SAME:
            raise refused("padding", found=f"a short text's cosine with itself falls to {same:.3f}")

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        vars(model).update(vars(self._longer(cast(Encoder, model))))  # the copy itself becomes the longer model
        move_(model, "both")
        edit = KeptPositions(keep=self.keep)
        edit.apply_(cast(Encoder, model))
        batch_size = min(self.batch_size, given.rows)
        return Tuning(
            step=ComposedStep(
                OBJECTIVES["clip"](),
                steps=self.steps,
                seed=given.seed,
                views={"image": {}, "text": {}, "short": {"source": "text", "rewrite": "first_sentence"}},
                terms=[
                    {
                        "name": "long_clip",
                        "k": self.k or max(1, batch_size // 8),
                        "short_weight": self.short_weight,
                        "extra": {"short_text": "short"},
                    }
                ],
            ),
            batches=given.loader(model, batch_size=batch_size),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            schedule=Cosine(warmup=min(200, self.steps // 10)),
            clipper=GlobalNorm(max_norm=1.0),
            edits=[edit],
        )

    def _longer(self, model: Encoder) -> Encoder:
        """A copy with more positions."""
        now = model.tokenizer.context_length
        context = self.context or min(self.keep + self.ratio * (now - self.keep), MAX_CONTEXT)
        if context <= now:
            raise InputError(f"context: the model reads {now} tokens already; expected more, got {context}")
        return model.resized(context=context, how={"name": "stretch", "keep": self.keep, "ratio": self.ratio})
