"""The settings by which ``tether adapt`` lets a captioner learn from a reward."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from tether.core.ranges import Count, NonNegative, PositiveRate, Rate, Whole, checked
from tether.tasks.caption.captioner import MADE_CAPTIONER, check_captioner
from tether.tasks.caption.clip_s import PREFIX
from tether.tasks.caption.reward import Score
from tether.tasks.caption.training import Tune


class CaptionByReward:
    """A captioner that was learnt before goes on by what a dual encoder thinks of its captions.

    Source: CLIP-Caption-Reward (arXiv 2205.13115). Its learning rate is 5e-6, for a captioner of 12 layers; the default
    is that of a small one.
    """

    takes, gives = "images", "captioner"
    goes_on, made_by = "captioner", MADE_CAPTIONER
    learnt_by = "tether.workflows.captioning.reward.reward_captions"

    @checked
    def __init__(
        self,
        *,
        captioner: str,
        judge: str | None = None,
        judge2: str | None = None,
        grammar: Literal["auto", "fit", "none"] = "auto",
        score: Score = "clip_s",
        weight: NonNegative = 2.0,
        cider: NonNegative = 0.0,
        prefix: str = PREFIX,
        samples: Count = 5,
        tune: Tune = "all",
        steps: Count = 200,
        batch_size: Count = 16,
        learning_rate: PositiveRate = 1e-4,
        weight_decay: Rate = 0.0,
        longest: Annotated[int, Ge(2)] = 32,
        regions: Whole = 0,
        grammar_steps: Count = 500,
        grammar_rate: PositiveRate = 1e-5,
        grammar_batch: Count = 64,
    ) -> None:
        """Take the settings.

        Args:
            captioner: folder of a captioner of the model that is adapted.
            judge: model whose score is the reward; None takes the captioner's own encoder.
            judge2: another model, which only measures before and after.
            grammar: ``fit`` tunes the judge's text side with a grammar head on the data's captions; ``auto`` does so
                where there are any and the judge allows it.
            score: ``ref_clip_s`` needs captions.
            weight: of the score.
            cider: weight of CIDEr, which needs captions.
            prefix: words before every caption that is scored.
            samples: captions of each image in a step.
            tune: what learns.
            steps: of AdamW.
            batch_size: images of a step.
            learning_rate: after a warm-up; it falls to 0 as a cosine.
            weight_decay: on matrices only.
            longest: most tokens of a caption.
            regions: parts of the image that are told beside it; none where the encoder shows none.
            grammar_steps: of the tuning of the judge.
            grammar_rate: its learning rate.
            grammar_batch: its pairs of a step.

        Raises:
            InputError: no captioner in the folder.
        """
        check_captioner(captioner, where="captioner")
        self.captioner, self.judge, self.judge2, self.grammar = captioner, judge, judge2, grammar
        self.score, self.weight, self.cider, self.prefix = score, weight, cider, prefix
        self.samples, self.tune, self.steps, self.batch_size = samples, tune, steps, batch_size
        self.learning_rate, self.weight_decay, self.longest, self.regions = (
            learning_rate,
            weight_decay,
            longest,
            regions,
        )
        self.grammar_steps, self.grammar_rate, self.grammar_batch = grammar_steps, grammar_rate, grammar_batch

    @property
    def needs_captions(self) -> bool:
        """Whether images without captions do not do."""
        return self.grammar == "fit" or self.score == "ref_clip_s" or self.cider > 0
