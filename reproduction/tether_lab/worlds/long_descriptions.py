"""Scenes told in ten sentences, which a small CLIP reads two or three of, and what it finds by all and by the first."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.data.captions.first_sentence import first_sentence
from tether.data.sets.scenes import Dice, Scene, World, short
from tether.data.sets.scenes.captions import details_of
from tether.evaluate.retrieval import recall_at_k
from tether.models.tokenizer import TextCutWarning
from tether_lab.worlds.in_memory import drawn, mean_recall, unit_pairs

SIDE, CONTEXT = 64, 24
KEEP, RATIO = 8, 4
LONG = KEEP + RATIO * (CONTEXT - KEEP)
"""Positions of whoever reads on; every caption fits."""
SCENES, POOL, LOOKALIKES = 4_000, 300, 4
CROPS = 8
"""Captions of at most the context that are drawn of each scene."""

WORLD = World(
    things=(2, 2),
    shapes=("circle", "square", "triangle", "star", "cross"),
    colours=("red", "orange", "green", "blue", "purple", "pink"),
    sizes=("medium", "large"),
    textures=("plain", "striped", "dotted"),
    backgrounds=("paper", "grass", "wood", "water", "stone"),
    broken=0.0,
    pairs="all",
)


@dataclass(frozen=True, slots=True)
class Descriptions:
    """Scenes, with what is said of them.

    Attributes:
        pixels: (n, 3, 64, 64).
        long: names the two things, then tells nine details in any order; about three contexts.
        crops: of each scene ``CROPS`` captions that fit into the context: the first sentence, or some of all in any
            order, either as often.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    long: tuple[str, ...]
    crops: tuple[tuple[str, ...], ...]

    @property
    def short(self) -> list[str]:
        """First sentences."""
        return [first_sentence(text) for text in self.long]


@dataclass(frozen=True, slots=True)
class LongRecall:
    """Recall at 1 in percent.

    Attributes:
        long: among images of which each has three with the same things, otherwise placed, sized, drawn: by long
            captions, mean of both directions.
        long_images: the same, images by captions alone.
        short: among images of other things each, by first sentences, mean of both directions.
    """

    long: float
    long_images: float
    short: float


def tell(scenes: Sequence[Scene], dice: Dice) -> Descriptions:
    """Images and captions of scenes."""
    long, crops = [], []
    for scene in scenes:
        opening = f"{short(scene)}."
        details = [detail.text for detail in details_of(scene)]
        long.append(" ".join([opening, *dice.shuffled(details)]))
        found = []
        for _ in range(CROPS):
            if dice.chance(0.5):
                found.append(opening.removesuffix("."))
                continue
            said = ""
            for sentence in dice.shuffled([opening, *details]):
                more = f"{said} {sentence}".strip()
                if len(more.replace(".", " .").split()) + 2 <= CONTEXT:  # a token for each word
                    said = more
            found.append(said)
        crops.append(tuple(found))
    return Descriptions(drawn(scenes, size=SIDE), tuple(long), tuple(crops))


@functools.lru_cache(maxsize=1)
def training_scenes(seed: int, count: int) -> Descriptions:
    """What all arms learn from."""
    dice = Dice(np.random.default_rng([seed, 0]))
    return tell([WORLD.draw(dice) for _ in range(count)], dice)


def other_things(count: int, *, seed: int) -> Descriptions:
    """Scenes no two of which show the same things."""
    dice, found = Dice(np.random.default_rng([seed, 1])), dict[tuple[tuple[str, str], ...], Scene]()
    while len(found) < count:
        scene = WORLD.draw(dice)
        found.setdefault(tuple(sorted((thing.colour, thing.shape) for thing in scene.things)), scene)
    return tell(list(found.values()), dice)


def lookalikes(count: int, *, seed: int) -> Descriptions:
    """Scenes of which ``LOOKALIKES`` each show the same things and differ in where and how."""
    dice, scenes = Dice(np.random.default_rng([seed, 2])), list[Scene]()
    while len(scenes) < count:
        first, same = WORLD.draw(dice), list[Scene]()
        while len(same) < LOOKALIKES:
            drawn_anew = WORLD.draw(dice)
            things = tuple(
                replace(thing, colour=like.colour, shape=like.shape)
                for thing, like in zip(drawn_anew.things, first.things, strict=True)
            )
            scene = replace(drawn_anew, things=things)
            if WORLD.allows(scene):
                same.append(scene)
        scenes += same
    return tell(scenes[:count], dice)


def measure(model: DualEncoder, *, seed: int, count: int = POOL) -> LongRecall:
    """What a model finds in two pools of ``count`` images; texts past its context are cut."""
    near, far = lookalikes(count, seed=seed), other_things(count, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # that some models cut texts is the point
        long = unit_pairs(model, near.pixels, near.long)
        short = unit_pairs(model, far.pixels, far.short)
    images = recall_at_k(*long, k=(1,))["text_to_image_r1"]
    return LongRecall(100 * mean_recall(*long), 100 * images, 100 * mean_recall(*short))
