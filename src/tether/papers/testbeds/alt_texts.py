"""Texts of scenes as the web might have them: file names, bare nouns, wrong images, and names that none else has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tether.data.sets.scenes import Dice, Scene, short
from tether.data.sets.scenes.captions import in_order
from tether.data.sets.scenes.world import SHAPES
from tether.papers.testbeds.reworded import worded

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
