"""Scenes with captions worded anew at every visit: the world of the papers on rewriting, mixing and paraphrasing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.types import Batch, ImageSpec
from tether.data.images import load
from tether.data.sets.scenes import HELD_OUT_TEMPLATES, TEMPLATES, Dice, Scene, World, render, short
from tether.data.sets.scenes.captions import in_order
from tether.data.sets.scenes.world import SHAPES
from tether.losses import ClipLoss
from tether.models import Clip, create
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.lab import Lab
from tether_lab.worlds.attribute_swaps import run
from tether_lab.worlds.in_memory import draws, plain_world

SIDE, CONTEXT, BATCH = 32, 40, 64
WORLD = plain_world(things=(2, 3), sizes=("medium", "large"), backgrounds=("paper",))
"""Two or three plain things on paper, so that a small model can see what there is and words decide."""
ONE_THING = replace(WORLD, things=(1, 1), sizes=("large",))
"""One large plain thing on paper."""
Wording = Literal["plain", "usual", "unseen"]


@dataclass(frozen=True, slots=True)
class Worded:
    """Scenes and their images.

    Attributes:
        scenes: what is seen.
        pixels: (n, 3, 32, 32).
        captions: the usual one of each scene: a frame of ``TEMPLATES``, things by size.
    """

    scenes: tuple[Scene, ...]
    pixels: UInt8[Tensor, "n 3 h w"]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.scenes)


@functools.lru_cache(maxsize=4)
def draw_scenes(split: Literal["train", "test"], *, count: int, seed: int, world: World = WORLD) -> Worded:
    """``count`` scenes; another split or another seed is another set of the same kind."""
    dice = Dice(np.random.default_rng([seed, ("train", "test").index(split)]))
    scenes = tuple(world.draw(dice) for _ in range(count))
    spec = ImageSpec((SIDE, SIDE))
    pixels = torch.stack([load(render(scene, size=2 * SIDE).pixels, spec) for scene in scenes])
    return Worded(scenes, pixels, tuple(worded(scene, how="usual", dice=dice) for scene in scenes))


def seen_and_asked(lab: Lab, *, seen: int, asked: int) -> tuple[Worded, Worded]:
    """So many scenes to learn from, and others."""
    return (
        draw_scenes("train", count=lab.steps(seen, 160), seed=lab.seed),
        draw_scenes("test", count=lab.steps(asked, 20), seed=lab.seed),
    )


def worded(scene: Scene, *, how: Wording, dice: Dice) -> str:
    """One caption: ``plain`` lists the things, ``usual`` frames them as training does, ``unseen`` as it never does.

    The unseen wording has a held-out frame and names the things in any order; colours and shapes are said as always.
    """
    if how == "plain":
        return short(scene)
    if how == "usual":
        return short(scene, template=dice.pick(tuple(TEMPLATES)))
    return short(scene, template=dice.pick(tuple(HELD_OUT_TEMPLATES)), order="random", dice=dice)


def wordings(scenes: Sequence[Scene], *, how: Wording, seed: int) -> list[str]:
    """One caption of each scene."""
    dice = Dice(np.random.default_rng([seed, 7]))
    return [worded(scene, how=how, dice=dice) for scene in scenes]


def train(
    pixels: UInt8[Tensor, "n 3 h w"], said: Callable[[int], str], *, texts: Sequence[str], seed: int, steps: int
) -> Clip:
    """A small CLIP, in eval mode, after ``steps`` steps on images whose text is asked for at every visit.

    Args:
        pixels: the images.
        said: the text of image i, this time.
        texts: all that it may say, for the table of tokens.
        seed: of the weights and the order of the images.
        steps: of the optimiser.
    """
    model = create("tiny", seed=seed, image_size=SIDE, context=CONTEXT)
    distinct = list(dict.fromkeys(texts))
    place, tokens = {text: row for row, text in enumerate(distinct)}, model.tokenizer(distinct)
    model.prune_vocabulary_(tokens)

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for rows in draws(len(pixels), size=BATCH, generator=generator):
            yield Batch(pixels[rows], tokens[[place[said(row)] for row in rows.tolist()]])

    run(model, ContrastiveStep(ClipLoss(), steps=steps, seed=seed), batches(), steps=steps)
    return model


NOISY, WRONG = 0.6, 0.15
"""Share of the texts that are noisy, and of those that belong to another image, which are among them."""
NAMES: dict[str, str] = dict(
    zip(
        SHAPES,
        ("brond", "zwelka", "fimp", "dorvat", "glish", "pundle", "krobe", "stavo", "melk", "tivora"),
        strict=True,
    )
)
"""An invented name of each shape; it stands in alt-texts alone."""


def named(scene: Scene) -> str:
    """Names of the things, largest first."""
    return " ".join(NAMES[scene.things[index].shape] for index in in_order(scene, order="size"))


def alt_texts(scenes: Sequence[Scene], *, seed: int) -> list[str]:
    """One alt-text of each scene: 40 % are captions; 15 % those of another image; the rest file names and bare nouns.

    Every one begins with names of the things in the image that it speaks of.
    """
    dice = Dice(np.random.default_rng([seed, 11]))
    found = []
    for number, scene in enumerate(scenes):
        kind = dice.uniform()
        if kind < WRONG:
            scene = scenes[(number + 1 + dice.below(max(len(scenes) - 1, 1))) % len(scenes)]
        if WRONG <= kind < (NOISY + WRONG) / 2:
            found.append(f"{named(scene).replace(' ', '_')}_{1000 + dice.below(9000)}.jpg")
        elif (NOISY + WRONG) / 2 <= kind < NOISY:
            found.append(f"{named(scene)}, {short(scene, details=())}")
        else:
            found.append(f"{named(scene)}, {worded(scene, how='usual', dice=dice)}")
    return found
