"""A captioner learns from a reward: captions that it samples against the one it is surest of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch, Loss
from tether.losses import self_critical_loss
from tether.models.train_mode import eval_mode
from tether.tasks.caption.captioner import PrefixCaptioner
from tether.tasks.caption.training import Memory, Tune, caption_batches, teach_
from tether.training.loop import StepReport
from tether.training.tuning import play

LEARNING_RATE = 5e-6
"""Of the release, for a captioner of 12 layers; a small one needs more."""


class RewardsCaptions(Protocol):
    """What a trainer asks of a reward; ``ClipReward`` is one."""

    def __call__(
        self,
        images: Tensor,
        samples: Sequence[str],
        greedy: Sequence[str],
        *,
        references: Sequence[Sequence[str]] | None = None,
    ) -> tuple[Float[Tensor, " n"], Mapping[str, Tensor]]:
        """Rewards of the samples, those of one image side by side, and parts by name for the log."""
        ...


class SelfCriticalStep:
    """The self-critical loss on a batch whose images are rows of data and whose texts (b, 1) are their places.

    A ``core.protocols.Step``. The greedy caption is written in eval mode, samples in the mode that the captioner is in.
    Their log-probabilities, through which alone the gradient goes, come from a second pass, whose dropout is another.
    What is drawn depends on the seed and on the number of the step alone.
    """

    def __init__(
        self,
        trainer: SelfCriticalTrainer,
        *,
        images: Tensor,
        references: Sequence[Sequence[str]] | None,
        memory: Memory,
    ) -> None:
        """Args: trainer: with captioner, reward and settings. The others are as for its ``fit``."""
        self._of, self._images, self._references, self._memory = trainer, images, references, memory

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; the model that is given is not looked at."""
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self._of.seed, salt="self-critical") >> 1)
        ours, longest = self._of.captioner, self._of.longest
        memory = self._memory(batch.image, generator)
        with eval_mode(ours):
            greedy = ours.draw(memory, how="greedy", longest=longest)
        drawn = ours.draw(memory, how="sample", samples=self._of.n_samples, generator=generator, longest=longest)
        places = batch.text[:, 0].tolist()
        known = None if self._references is None else [self._references[place] for place in places]
        reward, info = self._of.reward(self._images[places], drawn.texts, greedy.texts, references=known)
        logp = ours.log_probabilities(memory, drawn.tokens)
        end = ours.language_model.end
        loss = self_critical_loss(logp, drawn.tokens, reward.to(logp), eos_id=end, mask=drawn.mask)
        return Loss(loss, {"reward": reward.mean(), **{name: value.float().mean() for name, value in info.items()}})


class SelfCriticalTrainer:
    """Self-critical training of a captioner that has learnt to write before (CLIP-Caption-Reward, arXiv 2205.13115).

    Example:
        >>> import tether, torch
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> from tether.tasks.caption import ClipReward, PrefixAdaptor, PrefixCaptioner, SelfCriticalTrainer
        >>> words = small_causal_lm(["a red ball", "a blue cube"], width=32, layers=1)
        >>> captioner = PrefixCaptioner(PrefixAdaptor(64, lm_dim=32, n_queries=4), words)
        >>> trainer = SelfCriticalTrainer(captioner, ClipReward(tether.load("tiny", random_weights=True)), longest=6)
        >>> _ = trainer.fit(torch.randn(3, 1, 64), torch.rand(3, 3, 32, 32), steps=2, batch_size=2)
    """

    @checked
    def __init__(
        self,
        captioner: PrefixCaptioner,
        reward: RewardsCaptions,
        *,
        n_samples: Count = 5,
        longest: Count = 32,
        seed: Whole = 0,
    ) -> None:
        """Take the parts.

        Args:
            captioner: that learns, in place.
            reward: of its samples; it must not learn from the same words as the captioner alone.
            n_samples: captions of each image in a step.
            longest: most tokens of a caption.
            seed: of all draws.
        """
        self.captioner, self.reward, self.n_samples = captioner, reward, n_samples
        self.longest, self.seed = longest, seed

    def step(
        self,
        images: Tensor,
        *,
        references: Sequence[Sequence[str]] | None = None,
        memory: Memory = lambda rows, generator: rows,
    ) -> SelfCriticalStep:
        """What one step is, for ``teach_``; arguments as for ``fit``."""
        return SelfCriticalStep(self, images=images, references=references, memory=memory)

    def batches(self, rows: Float[Tensor, "n ..."], *, batch_size: int) -> Iterator[Batch]:
        """Endless batches of rows and their places, the same each time they are asked for."""
        everything = torch.arange(len(rows))
        return caption_batches(rows, everything[:, None], owner=everything, batch_size=batch_size, seed=self.seed)

    @checked
    def fit(
        self,
        rows: Float[Tensor, "n ..."],
        images: Tensor,
        *,
        references: Sequence[Sequence[str]] | None = None,
        memory: Memory = lambda rows, generator: rows,
        tune: Tune = "all",
        steps: Count = 1000,
        batch_size: Count = 16,
        learning_rate: PositiveRate = LEARNING_RATE,
        weight_decay: Rate = 0.0,
        on_step: Callable[[StepReport], None] = lambda report: None,
    ) -> PrefixCaptioner:
        """Train; the captioner is in eval mode afterwards.

        Args:
            rows: data that the captioner is told, such as (n, k, d) image tokens.
            images: the same images as the reward takes them: for ``ClipReward`` pixels or embeddings by its judge.
            references: captions of each image, where the reward asks for them.
            memory: what is told of rows of data, see ``fit_pairs``.
            tune: what learns.
            steps: of AdamW.
            batch_size: images of a step.
            learning_rate: after a warm-up; it falls to 0 as a cosine.
            weight_decay: on matrices only.
            on_step: told each step; its terms are the rewards' parts.

        Raises:
            InputError: no images, not as many of each, or a reward that is not finite.
        """
        if not len(rows) or len(images) != len(rows) or (references is not None and len(references) != len(rows)):
            counts = (len(rows), len(images), None if references is None else len(references))
            raise InputError(f"images: expected as many rows, images and references, at least 1, got {counts}")
        teach_(
            self.captioner,
            self.step(images, references=references, memory=memory),
            partial(self.batches, rows, batch_size=batch_size),
            tune=tune,
            steps=steps,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            play=partial(play, seed=self.seed, on_step=on_step),
        )
        return self.captioner
