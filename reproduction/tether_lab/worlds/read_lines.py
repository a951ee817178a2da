"""A small language model reads rendered lines and names things, by tokens of a CLIP, a vocabulary, or both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.data.lettering.pages import FACES, DrawnPages, draw_pages, random_texts
from tether.data.sets.scenes import Dice
from tether.data.sets.scenes.captions import noun
from tether.evaluate.reading import reading_scores
from tether.models.encoders.causal_lm import CausalLM, small_causal_lm
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.models.towers.clip import Clip
from tether.tasks.read import MergedVision, VisionLM, pretrain_vocabulary
from tether_lab.lab.lab import Lab
from tether_lab.worlds.captioned_scenes import COLOURS, SHAPES
from tether_lab.worlds.in_memory import drawn, plain_world
from tether_lab.worlds.small_clip import small_clip

SIZE, CLIP_SIZE, PATCH = 128, 64, 16
"""Pixels of images, of what the CLIP is given of them, and of a patch of either: 4 x 4 tokens by both."""
CHARACTERS, LENGTHS, POINTS, SPREAD = "0123456789", (1, 3), (22, 28), 0.05
"""Of a line, how many, their pixels, and the share of the free room, from the top left, where a line begins."""
PAGES, NEGATIVES, WORDS_STEPS, STAGE_STEPS, STAGE_RATE = 6_000, 300, 60, 900, 1e-3
"""For the vocabulary."""
LINES, SCENES, TEST, STEPS, RATE, BATCH = 2_000, 700, 200, 400, 1e-3, 32
"""For the language model of an arm; held-out lines are as many as held-out scenes."""
LM_WIDTH, LM_LAYERS, LONGEST = 64, 2, 12
PAPER, INK = 0.97, 0.15
"""Mean and standard deviation of the vocabulary's pixels, near those of rendered lines."""
LINE, THING = "text", "thing"
"""Prompts."""
CLIP_STEPS = 400


@dataclass(frozen=True, slots=True)
class ReadingBed:
    """What all arms of a seed share.

    Attributes:
        clip: of scenes, 64 px.
        lines: to learn from.
        strings: held-out lines.
        scenes: images of things to learn from, and their names.
        things: held-out ones.
    """

    clip: DualEncoder
    lines: DrawnPages
    strings: DrawnPages
    scenes: DrawnPages
    things: DrawnPages


def prepare(lab: Lab) -> ReadingBed:
    """The CLIP, lines and scenes of a seed."""
    return ReadingBed(
        cast(DualEncoder, scene_clip(lab)),
        _lines(lab, "lines", lab.steps(LINES, 16)),
        _lines(lab, "strings", lab.steps(TEST, 4)),
        scenes(lab, "scenes", lab.steps(SCENES, 16)),
        scenes(lab, "things", lab.steps(TEST, 4)),
    )


def scene_clip(lab: Lab) -> Clip:
    """A small CLIP of scenes of one or two things, which saw no rendered text."""
    settings = {
        "model": {"size": "tiny", "image_size": CLIP_SIZE, "patch": PATCH, "context": 32, "vision": {"layers": 3}},
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "vocabulary": "used",
    }
    data = f"scenes:size={CLIP_SIZE},rows=4096,things=[1,2],templates=plain"
    return cast(Clip, small_clip(lab, data=data, steps=CLIP_STEPS, settings=settings))


def _lines(lab: Lab, name: str, count: int) -> DrawnPages:
    """Lines of random characters, so that none can be guessed."""
    seed = hash_int(name, seed=lab.seed, salt="read lines") % 2**31
    texts = random_texts(count, seed=seed, characters=CHARACTERS, lengths=LENGTHS, words=0.0)
    return draw_pages(texts, seed=seed, size=SIZE, points=POINTS, spread=SPREAD, faces=FACES[:3])


def scenes(lab: Lab, name: str, count: int) -> DrawnPages:
    """So many scenes of one thing by a name, with its colour and shape."""
    dice = Dice(np.random.default_rng(hash_int(name, seed=lab.seed, salt="read lines")))
    world = plain_world(
        things=(1, 1), shapes=SHAPES, colours=COLOURS, sizes=("large",), backgrounds=("paper", "snow", "stone", "wood")
    )
    found = [world.draw(dice) for _ in range(count)]
    return DrawnPages(drawn(found, size=SIZE), tuple(noun(scene.things[0]) for scene in found))


def sharper(clip: DualEncoder) -> DualEncoder:
    """The CLIP at the size of the images, positions resized: 8 x 8 tokens."""
    return cast(DualEncoder, cast(Clip, clip).resized(image_size=SIZE).eval())


def network(lab: Lab) -> VisionVocabulary:
    """A vocabulary with random weights, 4 x 4 tokens of 96 numbers."""
    return VisionVocabulary(
        image_size=SIZE,
        patch=PATCH,
        width=64,
        depth=2,
        heads=2,
        mlp_ratio=2.0,
        window=4,
        global_blocks=[1],
        channels=[48, 96],
        mean=(PAPER, PAPER, PAPER),
        std=(INK, INK, INK),
        seed=lab.seed,
    ).eval()


def language_model(lab: Lab, name: str) -> CausalLM:
    """A small one of single characters."""
    seed = hash_int(name, seed=lab.seed, salt="read lines") % 2**31
    std = LM_WIDTH**-0.5
    return small_causal_lm(["a"], width=LM_WIDTH, layers=LM_LAYERS, vocabulary=257, context=96, std=std, seed=seed)


def pretrained(lab: Lab) -> tuple[VisionVocabulary, dict[str, float]]:
    """A vocabulary that learnt to read, and how: characters wrong, images without text known, processor seconds."""
    pages = _lines(lab, "pages", lab.steps(PAGES, 16))
    negatives = scenes(lab, "negatives", lab.steps(NEGATIVES, 4)).image
    begun = time.process_time()
    net = network(lab)
    reader = pretrain_vocabulary(
        net,
        language_model(lab, "stage 1"),
        pages,
        negatives=negatives,
        words_steps=lab.steps(WORDS_STEPS),
        steps=lab.steps(STAGE_STEPS),
        batch_size=BATCH,
        learning_rate=STAGE_RATE,
        longest=LONGEST,
        seed=lab.seed,
    )
    spent = time.process_time() - begun
    test = _lines(lab, "stage 1 test", lab.steps(TEST // 2, 4))
    other = scenes(lab, "no text", lab.steps(TEST // 4, 4)).image
    read = reader.generate(test.image, longest=LONGEST).words
    silent = reader.generate(other, longest=LONGEST).words
    return net, {
        "wrong_stage": 100 * reading_scores(read, test.texts).wrong,
        "no_text_known": 100 * float(np.mean([word == "no text" for word in silent])),
        **({} if lab.smoke else {"seconds_stage": spent}),
    }


def answered(
    lab: Lab,
    bed: ReadingBed,
    name: str,
    *,
    clip: DualEncoder | None,
    vocabulary: VisionVocabulary | None,
) -> dict[str, float]:
    """Figures of an arm in percent: characters wrong, and things named by colour and shape.

    Every arm has the same language model to begin with, and the same images in the same order.
    """
    begun = time.process_time()
    words = language_model(lab, "stage 2")
    reader = VisionLM(MergedVision(clip, vocabulary, lm_dim=words.dim, seed=lab.seed), words)
    shown: UInt8[Tensor, "n 3 h w"] = torch.cat([bed.lines.image, bed.scenes.image])
    reader.fit(
        shown,
        [*bed.lines.texts, *bed.scenes.texts],
        prompts=[LINE] * len(bed.lines) + [THING] * len(bed.scenes),
        steps=lab.steps(STEPS),
        batch_size=BATCH,
        learning_rate=RATE,
        longest=LONGEST,
        seed=lab.seed,
    )
    spent = time.process_time() - begun
    read = reader.generate(bed.strings.image, LINE, longest=LONGEST).words
    named = reader.generate(bed.things.image, THING, longest=LONGEST).words
    right = [one == other for one, other in zip(named, bed.things.texts, strict=True)]
    return {
        f"wrong_{name}": 100 * reading_scores(read, bed.strings.texts).wrong,
        f"named_{name}": 100 * float(np.mean(right)),
        **({} if lab.smoke else {f"seconds_{name}": spent}),
    }
