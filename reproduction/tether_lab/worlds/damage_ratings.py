"""Things with planted damage, rated from 1 to 5 by how much of them is damaged, and a CLIP that has heard of it.

Nothing here is about people or morals: damage stands in for what raters of images mind. A caption says now and then
whether its thing is intact or damaged, so the start prompts carry some signal and not all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from tether.data.sets.scenes import TEMPLATES, Defect, Dice, Scene, World, render
from tether.data.sets.scenes.captions import with_article
from tether.evaluate.embeddings import shrink
from tether.models.embed import encode_images
from tether.models.load import load
from tether.models.save import save
from tether.models.towers.clip import Clip
from tether.tasks.safety.prompt_classifier import INIT_TEXTS
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds import in_memory
from tether_lab.worlds.in_memory import dice_of, drawn

GOOD, BAD = ("intact", "clean", "fine"), ("damaged", "ruined", "spoiled")
"""Words of the captions for things with hardly any damage and for badly damaged ones."""
BROAD_GOOD, BROAD_BAD, BROAD = "positive", "negative", 0.2
"""The words of the paper's start prompts, and how often a caption has one of them.

They mean more than what the raters mind, as such words do: half of the time a thing is negative because of its damage,
half of the time because it lies on the second ground.
"""
NAMED = ("This image is about something intact", "This image is about something damaged")
"""Start prompts that name what the raters mind."""
GENERAL = 0.3
"""How often a caption says "thing" and nothing more of what it is."""
SHAPES, GROUNDS = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"), ("paper", "snow")
COLOURS = ("red", "orange", "green", "turquoise", "blue", "purple", "pink", "brown", "black")
SAYS, NONE, MUCH = 0.6, 0.1, 0.5
"""How often a caption speaks of the state, and up to and from which degree of damage it has words for it."""
PATCHES, PATCH, WHOLE = 6, 0.45, 0.7
"""Patches of the worst damage, the side of one as a share of the thing's, and what share of its pixels is damage 1."""
NOISE = 0.3
"""Standard deviation of what raters disagree by."""
SIDE, STEPS, PAIRS = 32, 400, 4096
_JITTER = 0.06  # how far a thing may lie from the middle, as a share of the side
_WORLD = World(
    things=(1, 1),
    shapes=SHAPES,
    colours=COLOURS,
    sizes=("large",),
    textures=("plain",),
    backgrounds=GROUNDS,
    broken=0.0,
)


@dataclass(frozen=True, slots=True)
class Rated:
    """Images with captions and ratings.

    Attributes:
        pixels: (n, 3, 32, 32) uint8.
        texts: a caption of each.
        damage: (n,) degree from 0 to 1, by the share of the thing's pixels that is changed.
        ratings: (n,) from 1, damaged all over, to 5, with the raters' noise.
        planted: (n,) True where there is any damage.
    """

    pixels: Tensor
    texts: tuple[str, ...]
    damage: Float[np.ndarray, " n"]
    ratings: Float[np.ndarray, " n"]
    planted: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        """How many images."""
        return len(self.texts)


def draw(lab: Lab, name: str, *, rows: int, share: float, least: float = 0.0) -> Rated:
    """Images with captions; equal seeds and names give equal ones.

    Args:
        lab: seed.
        name: of the set, such as ``train``.
        rows: how many.
        share: of them that are damaged at all, by a degree that is even between ``least`` and the worst.
        least: from 0 to 1.
    """
    scenes, texts, degrees, ratings = [], [], [], []
    for row in range(rows):
        dice = dice_of(lab, f"{name} {row}", salt="rated")
        scene = _WORLD.draw(dice)
        x, y = (0.5 + dice.uniform(-_JITTER, _JITTER) for _ in range(2))
        thing = replace(scene.things[0], x=x, y=y)
        count = 1 + round(dice.uniform(least, 1) * (PATCHES - 1)) if dice.chance(share) else 0
        scene = replace(scene, things=(thing,), defects=_patches(thing.units / 64, x, y, count, dice))
        degree = _degree(scene)
        degrees.append(degree)
        ratings.append(float(np.clip(5 - 4 * degree + NOISE * _normal(dice), 1, 5)))
        said = "thing" if dice.chance(GENERAL) else f"{thing.colour} {thing.shape}"
        if (word := _word(degree, scene.background, dice)) is not None:
            said = f"{word} {said}"
        texts.append(TEMPLATES[dice.pick(tuple(TEMPLATES))].format(things=with_article(said)))
        scenes.append(scene)
    table = np.array(degrees)
    return Rated(shrink(drawn(scenes, size=64), side=SIDE), tuple(texts), table, np.array(ratings), table > 0)


def taught(lab: Lab) -> Clip:
    """A tiny CLIP that has learnt from half damaged pairs, in eval mode; taught once a seed, then from the cache."""
    if lab.smoke:
        return _teach(lab, draw(lab, "train", rows=128, share=0.5), steps=2)
    folder = cached_model(
        "rated",
        made_by=Path(__file__),
        facts=[lab.seed],
        make=lambda to: save(_teach(lab, draw(lab, "train", rows=PAIRS, share=0.5), steps=STEPS), to),
    )
    return cast(Clip, load(str(folder), device=lab.device))


def embedded(model: Clip, images: Rated) -> Float[np.ndarray, "n d"]:
    """(n, d) embeddings of the images, not normalised."""
    return encode_images(model, images.pixels.split(512)).double().numpy()


def _teach(lab: Lab, pairs: Rated, *, steps: int) -> Clip:
    return in_memory.taught(lab, pairs.pixels, pairs.texts, steps=steps, further=[*INIT_TEXTS, *NAMED])


def _word(degree: float, ground: str, dice: Dice) -> str | None:
    """What a caption says of the state of its thing."""
    state = 0 if degree <= NONE else 1 if degree >= MUCH else None
    if dice.chance(BROAD):
        state = state if dice.chance(0.5) else GROUNDS.index(ground)
        return None if state is None else (BROAD_GOOD, BROAD_BAD)[state]
    return None if state is None or not dice.chance(SAYS) else dice.pick((GOOD, BAD)[state])


def _patches(width: float, x: float, y: float, count: int, dice: Dice) -> tuple[Defect, ...]:
    reach = width * 0.3
    return tuple(
        Defect(
            "grain",
            x + dice.uniform(-reach, reach),
            y + dice.uniform(-reach, reach),
            width * PATCH,
            dice.uniform(0, np.pi),
            dice.below(2**31),
        )
        for _ in range(count)
    )


def _degree(scene: Scene) -> float:
    image = render(scene, size=64)
    inside = image.mask(0)
    flaw = np.zeros_like(inside) if image.flaw is None else image.flaw
    return float(min((flaw & inside).sum() / inside.sum() / WHOLE, 1.0))


def _normal(dice: Dice) -> float:
    """A standard normal draw of two uniform ones (Box and Muller)."""
    return float(np.sqrt(-2 * np.log(1 - dice.uniform())) * np.cos(2 * np.pi * dice.uniform()))
