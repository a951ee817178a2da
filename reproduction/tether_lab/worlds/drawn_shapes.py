"""Scenes of one to four things out of 24 and a small CLIP that read their captions; two checks ask it further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.types import ImageSpec, Row
from tether.data.blocks import IndexedSource
from tether.data.images import resize_and_crop
from tether.data.sets.scenes import RenderedScene, Scene, World, render, short
from tether.data.sets.scenes.captions import noun, with_article
from tether.methods.dclip.region_crops import cut_box
from tether.models.presets import create
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds import in_memory

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "orange", "green", "blue", "purple", "pink")
PHRASES = tuple(with_article(f"{colour} {shape}") for colour in COLOURS for shape in SHAPES)
DRAWN, SIDE, PATCH = 64, 48, 8
"""Pixels that a scene is drawn with, those that the CLIP sees, and those of a patch."""
PAIRS, CLOSE_UPS, STEPS, BATCH, RATE = 6_000, 2_000, 1_000, 64, 2e-3
"""Of the CLIP's training: captioned scenes, single things that fill the image, and steps."""
MARGIN = 0.5
"""Around a close-up, at most, as a share of the thing's side."""


def shape_world(things: tuple[int, int], *, counted: tuple[str, int, int] | None = None) -> World:
    """Large plain things; ``counted`` as in ``World``."""
    return in_memory.plain_world(
        things=things,
        shapes=SHAPES,
        colours=COLOURS,
        sizes=("large",),
        backgrounds=("paper", "snow", "stone", "wood"),
        counted=counted,
    )


class ShapeScenes(IndexedSource):
    """Rows in memory: pixels, a caption, and ``boxes``, ``labels`` (the mask) and ``phrases`` of all things.

    Attributes:
        scenes: that are drawn.
        drawn: as images with masks and boxes.
        phrases: of the things of each.
        texts: a caption of each.
        rows: as they are read.
    """

    def __init__(self, name: str, scenes: Sequence[Scene], *, lab: Lab) -> None:
        """Args: name: of the source. scenes: to draw. lab: seed of the captions' order."""
        self.name, self.version, self.scenes = name, str(lab.seed), list(scenes)
        dice = in_memory.dice_of(lab, name, salt="captions")
        self.drawn = [render(scene, size=DRAWN) for scene in self.scenes]
        self.phrases = [[with_article(noun(thing)) for thing in scene.things] for scene in self.scenes]
        self.texts = [short(scene, order="random", dice=dice) for scene in self.scenes]
        self.rows: list[Row] = []
        for image, phrases, said in zip(self.drawn, self.phrases, self.texts, strict=True):
            meta = {"boxes": image.boxes.tolist(), "labels": image.labels, "phrases": phrases}
            self.rows.append(Row(f"{name}/{len(self.rows)}", image.pixels, (said,), meta))

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


def drawn_scenes(
    lab: Lab, name: str, *, count: int, world: World, different: Sequence[ShapeScenes] | None = None
) -> ShapeScenes:
    """Scenes by the lab's seed and a name.

    Args:
        lab: seed.
        name: of the draws.
        count: of scenes.
        world: that they are drawn from.
        different: if given, no two show the same things, nor what one of these shows.
    """
    dice, scenes = in_memory.dice_of(lab, name, salt="shapes"), list[Scene]()
    shown = {things_of(scene) for other in different or () for scene in other.scenes}
    while len(scenes) < count:
        scene = world.draw(dice)
        what = things_of(scene)
        if different is None or what not in shown:
            scenes.append(scene)
            shown.add(what)
    return ShapeScenes(name, scenes, lab=lab)


def things_of(scene: Scene) -> frozenset[tuple[str, str]]:
    """Colour and shape of all things, wherever they lie."""
    return frozenset((thing.colour, thing.shape) for thing in scene.things)


def tensor_of(image: RenderedScene) -> UInt8[Tensor, "3 h w"]:
    """Its pixels."""
    return torch.from_numpy(image.pixels).permute(2, 0, 1)


def seen(pixels: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 s s"]:
    """An image as the CLIP sees it."""
    return resize_and_crop(pixels, ImageSpec((SIDE, SIDE)))


def pixels_of(scenes: ShapeScenes) -> UInt8[Tensor, "n 3 s s"]:
    """The images as the CLIP sees them."""
    return torch.stack([seen(tensor_of(image)) for image in scenes.drawn])


def close_ups(scenes: ShapeScenes, *, lab: Lab) -> UInt8[Tensor, "n 3 s s"]:
    """The first thing of each scene cut out with a margin, as the CLIP sees it."""
    dice, found = in_memory.dice_of(lab, scenes.name, salt="margin"), []
    for image in scenes.drawn:
        x0, y0, x1, y1 = image.boxes[0].tolist()
        more = MARGIN * dice.uniform() * max(x1 - x0, y1 - y0)
        box = [min(max(end / DRAWN, 0.0), 1.0) for end in (x0 - more, y0 - more, x1 + more, y1 + more)]
        found.append(seen(cut_box(tensor_of(image), box)))
    return torch.stack(found)


def captioned_base(lab: Lab) -> Clip:
    """The CLIP, in eval mode; trained at the first call of a seed, then read from the user's cache."""

    def teach() -> Clip:
        pairs = drawn_scenes(lab, "base", count=lab.steps(PAIRS, 64), world=shape_world((1, 4)))
        model = create("tiny", seed=lab.seed, image_size=SIDE, patch=PATCH)
        near = drawn_scenes(lab, "close-ups", count=lab.steps(CLOSE_UPS, 32), world=shape_world((1, 1)))
        pixels, texts = torch.cat([pixels_of(pairs), close_ups(near, lab=lab)]), pairs.texts + near.texts
        return in_memory.fit_captions(
            model,
            pixels,
            texts,
            steps=lab.steps(STEPS),
            seed=lab.seed,
            generator=lab.generator("base"),
            further=PHRASES,
            batch_size=BATCH,
            learning_rate=RATE,
        )

    return cached_clip("drawn-shapes", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])
