"""Scenes of one or two things with captions that say some details by chance, and small CLIPs that learnt such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.hash_rng import hash_int
from tether.data.sets.scenes import Dice, Scene
from tether.data.sets.scenes.captions import listed, noun, whereabouts, with_article
from tether.evaluate.captions import attribute_scores
from tether.models import Clip, create
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds.in_memory import fit_captions, plain_world, small_drawn

SHAPES = ("circle", "triangle", "star", "cross")
COLOURS = ("red", "orange", "green", "blue", "purple")
SPOTS = tuple(
    [f"in the {line} {column}" for line in ("top", "bottom") for column in ("left", "right")]
    + ["on the left", "on the right", "at the top", "at the bottom", "in the middle"]
)
WORDS = (*SHAPES, *COLOURS, *SPOTS)
"""What counts as an attribute."""
SAID = 0.35
"""How often a caption says the place of a thing."""
REFERENCES = 5
SIDE, CONTEXT = 32, 20
PAIRS, STEPS, BATCH, RATE, SCALE = 8_000, 900, 64, 2e-3, 100.0
"""Of the CLIPs; the scale of the cosine is fixed at what published ones end at, which leaves images off texts."""


@dataclass(frozen=True, slots=True)
class ReferencedScenes:
    """Images, captions of each, and what is true of each.

    Attributes:
        pixels: (n, 3, 32, 32).
        captions: of each image, each with other details.
        true: colours, shapes and places of its things.
        pairs: its things by colour and shape, such as ``red star``.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    captions: tuple[tuple[str, ...], ...]
    true: tuple[frozenset[str], ...]
    pairs: tuple[frozenset[str], ...]

    @property
    def texts(self) -> list[str]:
        """The first caption of each."""
        return [some[0] for some in self.captions]

    def recall(self, written: Sequence[str]) -> float:
        """Share of the true words that are said, in percent."""
        return 100 * attribute_scores(written, self.true, known=WORDS).recall

    def precision(self, written: Sequence[str]) -> float:
        """Share of the said words that are true, in percent; 0 where none is said."""
        return float(np.nan_to_num(100 * attribute_scores(written, self.true, known=WORDS).precision))

    def whole(self, written: Sequence[str]) -> float:
        """Share of the things that are named by colour and shape side by side, in percent."""
        return 100 * attribute_scores(written, self.pairs).recall


def scenes(name: str, *, seed: int, count: int, captions: int = 1) -> ReferencedScenes:
    """So many scenes by a name and a seed, with so many captions of each."""
    dice = Dice(np.random.default_rng(hash_int(name, seed=seed, salt="captioned scenes")))
    world = plain_world(
        things=(1, 2), shapes=SHAPES, colours=COLOURS, sizes=("large",), backgrounds=("paper", "snow", "stone", "wood")
    )
    found = [world.draw(dice) for _ in range(count)]
    return ReferencedScenes(
        small_drawn(found, size=SIDE),
        tuple(tuple(_caption(scene, dice) for _ in range(captions)) for scene in found),
        tuple(
            frozenset(word for one in scene.things for word in (one.shape, one.colour, whereabouts(one)))
            for scene in found
        ),
        tuple(frozenset(noun(one) for one in scene.things) for scene in found),
    )


def _caption(scene: Scene, dice: Dice) -> str:
    """The things in random order, each with its place by chance."""
    named = [(with_article(noun(thing)), whereabouts(thing)) for thing in dice.shuffled(scene.things)]
    return listed([f"{name} {place}" if dice.chance(SAID) else name for name, place in named])


def caption_clip(lab: Lab, *, judge: bool = False) -> Clip:
    """A tiny CLIP of a seed, in eval mode; trained at the first call, then read from the user's cache.

    Args:
        lab: seed and budget.
        judge: one of other first weights, other scenes and another order of batches.
    """
    seed = hash_int("judge", seed=lab.seed, salt="caption clip") % 2**31 if judge else lab.seed
    teach = partial(_taught, lab, seed=seed)
    return cached_clip("caption-clip", teach, made_by=Path(__file__), facts=[seed, lab.smoke])


def _taught(lab: Lab, *, seed: int) -> Clip:
    shown = scenes("clip", seed=seed, count=lab.steps(PAIRS, 64))
    model = create("tiny", seed=seed, image_size=SIDE, context=CONTEXT, logit_scale=SCALE)
    model.freeze_logit_scale_()
    return fit_captions(
        model,
        shown.pixels,
        shown.texts,
        steps=lab.steps(STEPS),
        seed=seed,
        generator=torch.Generator().manual_seed(seed),
        further=WORDS,
        batch_size=BATCH,
        learning_rate=RATE,
    )
