"""Pairs of scenes that differ in one small detail, a CLIP whose captions seldom tell it, and what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.data.sets.scenes import Dice, Scene, World, short
from tether.data.sets.scenes.world import SIZES
from tether_lab.worlds.in_memory import percent, small_drawn, unit_images, unit_texts

SIZE = 32
Detail = Literal["place", "size", "texture", "count"]
DETAILS: tuple[Detail, ...] = get_args(Detail)
ASIDE = 0.1
"""Of the side: a thing farther from the middle is on the left or on the right."""
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "orange", "yellow", "blue", "purple", "pink")
WORLD = World(
    things=(1, 2),
    shapes=SHAPES,
    colours=COLOURS,
    sizes=("medium", "large"),
    textures=("plain", "striped"),
    backgrounds=("paper", "snow", "stone", "grass"),
    broken=0.0,
    pairs="all",
)
CLASSES = tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES))


@dataclass(frozen=True, slots=True)
class DetailedScenes:
    """Images with a caption and a class each.

    Attributes:
        pixels: (n, 3, 32, 32).
        texts: names the larger thing; some tell a detail.
        labels: (n,) places in ``CLASSES``.
    """

    pixels: UInt8[Tensor, "n 3 32 32"]
    texts: tuple[str, ...]
    labels: Int[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class DetailPairs:
    """Images in pairs of which only one detail differs.

    Attributes:
        pixels: of the first and of the second image of each pair, (n, 3, 32, 32); the first of all pairs share the
            detail's value, as do the second.
        texts: the caption with the detail, of either.
    """

    pixels: tuple[Tensor, Tensor]
    texts: tuple[tuple[str, ...], tuple[str, ...]]


def draw_scene(dice: Dice) -> Scene:
    """A medium or large thing, alone or with a small one."""
    scene = WORLD.draw(dice)
    low, high = SIZES["small"]
    others = tuple(replace(one, size="small", units=low + dice.below(high - low + 1)) for one in scene.things[1:])
    return replace(scene, things=(scene.things[0], *others))


def caption(scene: Scene, *details: Detail) -> str:
    """Names the larger thing, with details."""
    thing = scene.things[0]
    said = short(
        scene, order="given", most=1, details=(*(one for one in details if one in ("size", "texture")), "colour")
    )
    if "place" in details:
        said = f"{said} on the {'left' if thing.x < 0.5 else 'right'}"
    if "count" in details:
        said = f"{said} {'alone' if len(scene.things) == 1 else 'beside another thing'}"
    return said


def told_images(count: int, *, seed: int, telling: float = 0.0) -> DetailedScenes:
    """Images of chance.

    Args:
        count: how many.
        seed: of the draws.
        telling: share of the captions that tell one detail.
    """
    dice = Dice(np.random.default_rng(seed))
    scenes = [draw_scene(dice) for _ in range(count)]
    texts = []
    for scene in scenes:
        known = [detail for detail in DETAILS if detail != "place" or _aside(scene)]
        texts.append(caption(scene, dice.pick(known)) if dice.chance(telling) else caption(scene))
    labels = [CLASSES.index(f"{scene.things[0].colour} {scene.things[0].shape}") for scene in scenes]
    return DetailedScenes(_images(scenes), tuple(texts), torch.tensor(labels))


def detail_pairs(detail: Detail, count: int, *, seed: int) -> DetailPairs:
    """Pairs that differ in a detail."""
    dice, pairs = Dice(np.random.default_rng([seed, DETAILS.index(detail)])), list[tuple[Scene, Scene]]()
    while len(pairs) < count:
        scene = draw_scene(dice)
        pair = _values(scene, detail, dice)
        if all(WORLD.allows(one) for one in pair) and (detail != "place" or _aside(scene)):
            pairs.append(pair)
    sides = list(zip(*pairs, strict=True))
    pixels, texts = zip(*((_images(side), tuple(caption(one, detail) for one in side)) for side in sides), strict=True)
    return DetailPairs((pixels[0], pixels[1]), (texts[0], texts[1]))


def _values(scene: Scene, detail: Detail, dice: Dice) -> tuple[Scene, Scene]:
    thing, others = scene.things[0], scene.things[1:]
    if detail == "count":
        while not others:
            other = draw_scene(dice)
            others = other.things[1:]
        return replace(scene, things=(thing,)), replace(scene, things=(thing, *others))
    if detail == "place":
        values = [replace(thing, x=min(thing.x, 1 - thing.x)), replace(thing, x=max(thing.x, 1 - thing.x))]
    elif detail == "size":
        values = [
            replace(thing, size=size, units=SIZES[size][0] + dice.below(SIZES[size][1] - SIZES[size][0] + 1))
            for size in WORLD.sizes
        ]
    else:
        values = [replace(thing, texture=texture) for texture in WORLD.textures]
    first, second = (replace(scene, things=(value, *others)) for value in values)
    return first, second


def _aside(scene: Scene) -> bool:
    return abs(scene.things[0].x - 0.5) > ASIDE


def _images(scenes: Sequence[Scene]) -> UInt8[Tensor, "n 3 32 32"]:
    return small_drawn(scenes, size=SIZE)


def class_accuracy(model: DualEncoder, images: DetailedScenes) -> float:
    """Percent of the images whose nearest class text is that of the larger thing."""
    text = unit_texts(model, [f"a {name}" for name in CLASSES])
    image = unit_images(model, images.pixels, batch=500)
    return percent((image @ text.T).argmax(dim=1) == images.labels)


def probe_accuracy(model: DualEncoder, fitted: DetailPairs, asked: DetailPairs) -> float:
    """Percent of the images whose value of the detail a logistic regression on unit embeddings tells."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = zip(*(_rows(model, pairs) for pairs in (fitted, asked)), strict=True)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows[0], labels[0])
    return 100 * float(probe.score(rows[1], labels[1]))


def matching(model: DualEncoder, pairs: DetailPairs) -> float:
    """Percent of the images that lie nearer to their own caption than to that of their pair's other image."""
    texts = [unit_texts(model, said) for said in pairs.texts]
    image = [unit_images(model, pixels, batch=500) for pixels in pairs.pixels]
    right = [(image[side] * (texts[side] - texts[1 - side])).sum(dim=1) > 0 for side in (0, 1)]
    return percent(torch.cat(right))


def _rows(model: DualEncoder, pairs: DetailPairs) -> tuple[np.ndarray, np.ndarray]:
    image = [unit_images(model, pixels, batch=500) for pixels in pairs.pixels]
    return torch.cat(image).numpy(), np.repeat([0, 1], [len(one) for one in image])
