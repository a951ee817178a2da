"""The settings by which ``tether adapt`` makes a captioner of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveRate, Rate, checked
from tether.core.registry import Registry
from tether.models.encoders.causal_lm import load_causal_lm, small_causal_lm
from tether.tasks.caption.memory import Variance
from tether.tasks.caption.reward_recipe import CaptionByReward
from tether.tasks.caption.text_only import COPIES, TextOnlyCaptioner
from tether.tasks.caption.training import BATCH, LEARNING_RATE, Tune

PASSES, LEAST_STEPS = 8, 500
"""Passes over the texts, as published for COCO, and the fewest steps."""
SMALL_RATE = 1e-3
"""Learning rate of a small language model that begins with random weights; not of the paper."""


class CaptionFromTexts:
    """A captioner learnt from texts alone; see ``TextOnlyCaptioner``.

    Source: MacCap (arXiv 2401.02347). Its language model is OPT-1.3b at rest; without ``lm`` a small one is trained on
    the same texts, which writes in their words only.
    """

    takes, gives = "texts", "captioner"
    goes_on: ClassVar[str | None] = None
    learnt_by = "tether.workflows.captioning.learn.learn_captions"

    @checked
    def __init__(
        self,
        *,
        lm: str | None = None,
        tune: Tune | Literal["auto"] = "auto",
        n_queries: Count | None = None,
        copies: Count = COPIES,
        noise: Variance = "auto",
        steps: Count | None = None,
        batch_size: Count = BATCH,
        learning_rate: PositiveRate | None = None,
        weight_decay: Rate = 0.0,
        longest: Annotated[int, Ge(2)] = 40,
        width: Count = 128,
        layers: Count = 2,
    ) -> None:
        """Take the settings.

        Args:
            lm: folder of a causal language model of transformers; None trains a small one.
            tune: what learns; ``auto`` is the adaptor alone before a given language model, and all of it otherwise.
            n_queries: rows of the prefix; None takes 32 for a given language model and 6 for a small one.
            copies: of each text.
            noise: variance of each number's noise; ``auto`` is 0.5 / D, where the paper has 8 / D; 0 leaves it out.
            steps: of AdamW; None takes 8 passes over the texts, at least 500 steps.
            batch_size: texts of a step.
            learning_rate: after the warm-up; None takes 1e-4, or 1e-3 for a small language model.
            weight_decay: on matrices only.
            longest: most tokens of a text.
            width: of a small language model.
            layers: of a small language model.
        """
        small = lm is None
        self.lm, self.copies, self.noise, self.steps, self.batch_size = lm, copies, noise, steps, batch_size
        self.tune: Tune = tune if tune != "auto" else "all" if small else "adaptor"
        self.n_queries = n_queries or (6 if small else 32)
        self.learning_rate = learning_rate or (SMALL_RATE if small else LEARNING_RATE)
        self.weight_decay, self.longest, self.width, self.layers = weight_decay, longest, width, layers

    def start(self, model: DualEncoder, texts: Sequence[str], *, seed: int) -> TextOnlyCaptioner:
        """The captioner before it has learnt; the same for the same texts and seed.

        Raises:
            InputError: a folder without a language model.
            UnsupportedModelError: an encoder that does not compare by cosine.
        """
        if self.lm is None:
            words = small_causal_lm(texts, width=self.width, layers=self.layers, seed=seed)
        else:
            words = load_causal_lm(self.lm)
        return TextOnlyCaptioner(
            model, words, n_queries=self.n_queries, copies=self.copies, variance=self.noise, seed=seed
        )

    def steps_for(self, count: int) -> int:
        """Steps for so many texts."""
        return self.steps or max(LEAST_STEPS, PASSES * -(-count // self.batch_size))


CAPTION_RECIPES: Registry[CaptionFromTexts | CaptionByReward] = Registry(
    "caption_recipes",
    {
        "caption_from_texts": "tether.tasks.caption.recipe:CaptionFromTexts",
        "caption_reward": "tether.tasks.caption.reward_recipe:CaptionByReward",
    },
)
"""Recipes of ``tether adapt`` that give a captioner."""
