"""Articles: an image of two things, and a title that names them with their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from tether.data.sets.scenes import TEMPLATES, Dice, Scene, Thing, World
from tether.data.sets.scenes.captions import listed, noun, with_article
from tether.evaluate.embeddings import shrink
from tether.models.embed import encode_images, encode_texts
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory
from tether_lab.worlds.damage_ratings import COLOURS, SHAPES
from tether_lab.worlds.in_memory import dice_of, drawn

SIDE, STEPS, PAIRS = 32, 300, 4096
COLOURED = 0.15
"""How often a caption that the model learns from names the colours, which every title does."""
_WORLD = World(
    things=(2, 2),
    shapes=SHAPES,
    colours=COLOURS,
    sizes=("medium", "large"),
    textures=("plain",),
    backgrounds=("paper", "snow"),
    broken=0.0,
)


@dataclass(frozen=True, slots=True)
class Articles:
    """Images with titles.

    Attributes:
        pixels: (n, 3, 32, 32) uint8.
        texts: a title of each.
        alike: (n,) the shapes of the two things, sorted, and the colour of the first: what a hard swap has in common.
        shown: (n,) both with their colours, sorted.
    """

    pixels: Tensor
    texts: tuple[str, ...]
    alike: tuple[str, ...]
    shown: tuple[str, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.texts)


def draw(lab: Lab, name: str, *, rows: int, coloured: float = 1.0) -> Articles:
    """Articles; equal seeds and names give equal ones.

    Args:
        lab: seed.
        name: of the set, such as ``train``.
        rows: how many.
        coloured: share of the titles that name the colours of their things.
    """
    scenes, texts = [], []
    for row in range(rows):
        dice = dice_of(lab, f"{name} {row}", salt="headlines")
        scene = _WORLD.draw(dice)
        texts.append(_title(scene, dice, details=("colour",) if dice.chance(coloured) else ()))
        scenes.append(scene)
    return Articles(
        shrink(drawn(scenes, size=64), side=SIDE),
        tuple(texts),
        tuple(_alike(scene.things) for scene in scenes),
        tuple(" ".join(sorted(noun(thing) for thing in scene.things)) for scene in scenes),
    )


def _alike(things: Sequence[Thing]) -> str:
    first, second = sorted(things, key=lambda thing: (thing.shape, thing.colour))
    return f"{first.colour} {first.shape} {second.shape}"


def _title(scene: Scene, dice: Dice, *, details: Sequence[str]) -> str:
    things = listed([with_article(noun(thing, details=details)) for thing in dice.shuffled(scene.things)])
    return TEMPLATES[dice.pick(tuple(TEMPLATES))].format(things=things)


def taught(lab: Lab, *, coloured: float = COLOURED) -> Clip:
    """A tiny CLIP that has learnt from other pairs, of whose captions this share name the colours, in eval mode."""
    articles, steps = draw(lab, "train", rows=lab.steps(PAIRS, 128), coloured=coloured), lab.steps(STEPS, 2)
    return in_memory.taught(lab, articles.pixels, articles.texts, steps=steps)


def embedded(model: Clip, articles: Articles) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """(n, d) embeddings of the images and of the titles, not normalised."""
    images = encode_images(model, articles.pixels.split(512)).double().numpy()
    return images, encode_texts(model, articles.texts).double().numpy()


def swapped(rows: int, *, share: float, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Which image each article shows when a share of the articles pass theirs on in a ring; the others keep it."""
    shown = np.arange(rows)
    chosen = rng.permutation(rows)[: round(share * rows)]
    shown[chosen] = np.roll(chosen, 1)
    return shown
