"""A captioner of scenes that learnt from pairs goes on by a CLIP's reward; another CLIP judges what it writes."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.evaluate.captions import caption_words, cider, repeated_bigrams
from tether.models.embed import encode_images
from tether.models.encoders.causal_lm import small_causal_lm
from tether.models.features.penultimate import image_tokens
from tether.models.towers.clip import Clip
from tether.tasks.caption import (
    ClipReward,
    PrefixAdaptor,
    PrefixCaptioner,
    SelfCriticalTrainer,
    fit_grammar,
    fit_pairs,
)
from tether_lab.lab.lab import Lab
from tether_lab.worlds.captioned_scenes import REFERENCES, ReferencedScenes, caption_clip, scenes

PAIRS, IMAGES = 2_000, 300
WIDTH, LAYERS, QUERIES, INNER, DROPOUT = 64, 1, 4, 256, 0.0
"""Of the captioner."""
STEPS, BATCH, RATE = 600, 64, 2e-3
"""Of its training on pairs."""
LONGEST = 18
"""Tokens of a caption, of which each word is one; the CLIPs read as many words."""
SAMPLES, REWARD_BATCH, REWARD_STEPS, REWARD_RATE = 5, 32, 80, 3e-4
GRAMMAR_STEPS, GRAMMAR_RATE = 100, 3e-4
PREFIX = ""
"""Words before what is scored: the CLIPs have seen bare captions."""


@dataclass(frozen=True, slots=True)
class RewardBench:
    """What all arms of a seed share.

    Attributes:
        reward: gives the reward, without a judge of grammar.
        judge: another CLIP, which only measures.
        train: pairs that the captioner learns from, and whose images it goes on with.
        test: held-out images.
        told: tokens of the training images, as the captioner is told them.
        asked: those of the held-out ones.
        start: the captioner that learnt from the pairs.
    """

    reward: ClipReward
    judge: ClipReward
    train: ReferencedScenes
    test: ReferencedScenes
    told: Float[Tensor, "n k w"]
    asked: Float[Tensor, "m k w"]
    start: PrefixCaptioner


def prepare(lab: Lab) -> RewardBench:
    """Both CLIPs, the scenes, and a captioner that learnt from pairs."""
    model, other = caption_clip(lab), caption_clip(lab, judge=True)
    train = scenes("pairs", seed=lab.seed, count=lab.steps(PAIRS, 32))
    test = scenes("held out", seed=lab.seed, count=lab.steps(IMAGES, 8), captions=REFERENCES)
    told, asked = _tokens(model, train), _tokens(model, test)
    words = small_causal_lm(train.texts, width=WIDTH, layers=LAYERS, seed=lab.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lab.seed)
        adaptor = PrefixAdaptor(told.shape[2], lm_dim=WIDTH, n_queries=QUERIES, inner=INNER, dropout=DROPOUT)
    start = PrefixCaptioner(adaptor, words)
    reward, judge = (ClipReward(one, prefix=PREFIX) for one in (model, other))
    bed = RewardBench(reward, judge, train, test, told, asked, start)
    _on_pairs(lab, bed, start, steps=STEPS, rate=RATE)
    return bed


@torch.no_grad()
def _tokens(model: Clip, shown: ReferencedScenes) -> Tensor:
    rows = [image_tokens(model, some).tokens for some in shown.pixels.split(256)]
    return torch.cat([some for some in rows if some is not None])


def _on_pairs(lab: Lab, bed: RewardBench, captioner: PrefixCaptioner, *, steps: int, rate: float) -> PrefixCaptioner:
    return fit_pairs(
        captioner,
        bed.told,
        bed.train.texts,
        steps=lab.steps(steps),
        batch_size=BATCH,
        learning_rate=rate,
        longest=LONGEST,
        seed=lab.seed,
    )


def continued(lab: Lab, bed: RewardBench, *, steps: int, rate: float) -> tuple[PrefixCaptioner, float]:
    """A copy of the start that goes on with pairs, and the processor time of that in seconds."""
    before = time.process_time()
    made = _on_pairs(lab, bed, copy.deepcopy(bed.start), steps=steps, rate=rate)
    return made, time.process_time() - before


def with_grammar(lab: Lab, bed: RewardBench) -> tuple[ClipReward, float]:
    """The reward with a judge of grammar, learnt on the captions of the pairs, and the processor time of that."""
    before = time.process_time()
    model = bed.reward.model
    images = encode_images(model, bed.train.pixels.split(256))
    tuned, head = fit_grammar(
        model,
        images,
        bed.train.texts,
        prefix=PREFIX,
        steps=lab.steps(GRAMMAR_STEPS),
        learning_rate=GRAMMAR_RATE,
        seed=lab.seed,
    )
    return ClipReward(tuned, grammar=head), time.process_time() - before


def rewarded(
    lab: Lab, bed: RewardBench, reward: ClipReward, *, steps: int = REWARD_STEPS, rate: float = REWARD_RATE
) -> tuple[PrefixCaptioner, float]:
    """A copy of the start that goes on by a reward, and the processor time of that in seconds."""
    before = time.process_time()
    trainer = SelfCriticalTrainer(copy.deepcopy(bed.start), reward, n_samples=SAMPLES, longest=LONGEST, seed=lab.seed)
    images = encode_images(reward.model, bed.train.pixels.split(256))
    made = trainer.fit(bed.told, images, steps=lab.steps(steps), batch_size=REWARD_BATCH, learning_rate=rate)
    return made, time.process_time() - before


def greedy(bed: RewardBench, captioner: PrefixCaptioner) -> list[str]:
    """The surest caption of each held-out image."""
    return list(captioner.eval().draw(bed.asked, how="greedy", longest=LONGEST).texts)


def nearest_sample(lab: Lab, bed: RewardBench, captioner: PrefixCaptioner) -> list[str]:
    """Of the surest caption and some sampled ones that which the reward's CLIP finds nearest to the image."""
    drawn = captioner.eval().draw(
        bed.asked, how="sample", samples=SAMPLES, longest=LONGEST, generator=lab.generator("samples")
    )
    sure = greedy(bed, captioner)
    listed = [[sure[row], *drawn.texts[row * SAMPLES : (row + 1) * SAMPLES]] for row in range(len(sure))]
    seen = encode_images(bed.reward.model, bed.test.pixels.split(256)).repeat_interleave(SAMPLES + 1, dim=0)
    scores = bed.reward.scores(seen, [text for some in listed for text in some]).view(len(sure), -1)
    return [some[place] for some, place in zip(listed, scores.argmax(1).tolist(), strict=True)]


def figures(name: str, captions: Sequence[str], bed: RewardBench) -> dict[str, float]:
    """Of an arm: shares in percent, CLIP-S and CIDEr times 100, words of a caption."""
    test = bed.test
    return {
        f"judged_{name}": 100 * float(bed.judge.scores(test.pixels, captions).mean()),
        f"rewarded_{name}": 100 * float(bed.reward.scores(test.pixels, captions).mean()),
        f"recall_{name}": test.recall(captions),
        f"precision_{name}": test.precision(captions),
        f"things_{name}": test.whole(captions),
        f"cider_{name}": 100 * cider(captions, test.captions).mean,
        f"repeated_{name}": 100 * repeated_bigrams(captions),
        f"words_{name}": sum(len(caption_words(one)) for one in captions) / len(captions),
    }
