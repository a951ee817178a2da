"""Things on textured grounds, half of them flawed, and a small CLIP whose captions say the state of some.

Four checks share it: how defects are found by words, by learnt prompts, by a few good images, and by two sets of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from tether.data.sets.scenes import Dice, Scene, Thing, World, draw_defect, render
from tether.data.sets.scenes.defects import KINDS
from tether.data.sets.scenes.world import DAMAGES, SHAPES
from tether.models.presets import create
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds import in_memory

SEEN = ("circle", "square", "triangle", "cross", "moon")
UNSEEN = tuple(shape for shape in SHAPES if shape not in SEEN)
"""Shapes that a method may learn from, and those it is asked about; the CLIP's captions name all ten."""
COLOURS = ("red", "yellow", "blue", "purple", "pink", "white")
GROUNDS = ("grass", "sand", "wood", "water", "stone", "brick")
TEXTURES = ("plain", "striped", "dotted", "checkered")
PIECE = "missing"
FLAWS: tuple[str, ...] = (*KINDS, PIECE)
"""Scratch, stain, hole, grain, and a piece that is missing; of each as many."""
SIDE, PATCH, LAYERS = 64, 8, 4
LEAST = 12
"""Pixels that a flaw changes at least."""

NORMAL = ("perfect {}", "flawless {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage")
DAMAGED = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = ("a {}", "a photo of a {}.", "a photo of the {}.")
SAID = 0.7
"""How often a caption says the state, in words of WinCLIP's; otherwise it names the thing alone, flawed or not."""
PAIRS, STEPS, BATCH, RATE = 10_000, 1_500, 64, 1e-3
NEAREST = 2.0
"""Of the CLIP's training: captioned images, steps, and how far an image may be enlarged around its thing."""


@dataclass(frozen=True, slots=True)
class Flawed:
    """Images of one thing each; entry i of each belongs to image i.

    Attributes:
        pixels: (n, 3, 64, 64).
        masks: (n, 64, 64) where the flaw is, all False where there is none.
        damaged: (n,) whether there is one.
        names: what each shows, such as ``red star``.
        flaws: its kind, one of ``FLAWS``; empty where there is none.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    masks: Bool[Tensor, "n h w"]
    damaged: Bool[Tensor, " n"]
    names: tuple[str, ...]
    flaws: tuple[str, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.names)


def flawed(
    lab: Lab, name: str, count: int, shapes: Sequence[str], *, damaged: float = 0.5, alike: bool = False
) -> Flawed:
    """Large things by the lab's seed and a name.

    Args:
        lab: seed.
        name: of the draws; another name gives other ones.
        count: of images.
        shapes: one is drawn for each image.
        damaged: chance of a flaw; 0 draws good images alone.
        alike: whether all things of a shape have the colour and texture that the seed gives to it, on the same kind of
            ground, as a product has; else every image draws its own.
    """
    dice = in_memory.dice_of(lab, name, salt="flawed things")
    images, masks, names, flaws = [], [], [], []
    for _ in range(count):
        shape = dice.pick(shapes)
        look = in_memory.dice_of(lab, shape, salt="look of a product") if alike else dice
        scene = _scene(_world((shape,), look, alike=alike), dice, sizes=("large", "huge"))
        flaw = dice.pick(FLAWS) if dice.chance(damaged) else ""
        pixels, mask = _drawn(scene, flaw, dice, size=SIDE)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        masks.append(torch.from_numpy(mask))
        names.append(_name(scene))
        flaws.append(flaw)
    found = torch.stack(masks)
    return Flawed(torch.stack(images), found, found.any(dim=(1, 2)), tuple(names), tuple(flaws))


def base(lab: Lab) -> Clip:
    """The CLIP, in eval mode; trained at the first call of a seed, then read from the user's cache.

    It learns from things of all sizes, half of them flawed, some enlarged around the thing; ``SAID`` of the captions
    say the state. A caption names the thing by colour and shape, by shape, or, half of
    the time, as ``object``.
    """

    def teach() -> Clip:
        pixels, texts = captioned(lab, "base", count=lab.steps(PAIRS, 64))
        model = create("tiny", seed=lab.seed, image_size=SIDE, patch=PATCH, vision={"layers": LAYERS})
        return in_memory.fit_captions(
            model,
            pixels,
            texts,
            steps=lab.steps(STEPS),
            seed=lab.seed,
            generator=lab.generator("base"),
            batch_size=BATCH,
            learning_rate=RATE,
        )

    return cached_clip("flawed-things", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])


def captioned(lab: Lab, name: str, *, count: int) -> tuple[UInt8[Tensor, "n 3 h w"], list[str]]:
    """Images and captions as the CLIP learns from them."""
    dice = in_memory.dice_of(lab, name, salt="captioned flaws")
    images, texts = [], []
    while len(texts) < count:
        scene = _scene(_world(SHAPES, dice), dice, sizes=("medium", "large", "huge"))
        flaw = dice.pick(FLAWS) if dice.chance(0.5) else ""
        size = round(SIDE * dice.uniform(1, NEAREST))
        pixels, mask = _drawn(scene, flaw, dice, size=size)
        left, top = (
            min(max(round(at * size + dice.uniform(-8, 8)) - SIDE // 2, 0), size - SIDE)
            for at in (scene.things[0].x, scene.things[0].y)
        )
        window = slice(top, top + SIDE), slice(left, left + SIDE)
        if flaw and mask[window].sum() < LEAST:  # cut off
            continue
        images.append(torch.from_numpy(pixels[window].copy()).permute(2, 0, 1))
        thing = dice.pick((_name(scene), scene.things[0].shape, "object", "object"))
        state = dice.pick(DAMAGED if flaw else NORMAL) if dice.chance(SAID) else "{}"
        texts.append(dice.pick(TEMPLATES).format(state.format(thing)))
    return torch.stack(images), texts


def _world(shapes: Sequence[str], look: Dice, *, alike: bool = False) -> World:
    """Where one thing of these shapes is drawn from; ``alike`` fixes its colour, texture and ground by ``look``."""
    grounds: tuple[str, ...] = GROUNDS
    colours, textures = COLOURS, TEXTURES
    if alike:
        grounds = (look.pick(GROUNDS),)
        free = World(shapes=tuple(shapes), colours=COLOURS, backgrounds=grounds, pairs="all").pairs_on(grounds[0])
        colours, textures = (look.pick(free)[0],), (look.pick(TEXTURES),)
    return World(
        things=(1, 1),
        shapes=tuple(shapes),
        colours=colours,
        textures=textures,
        backgrounds=grounds,
        broken=0.0,
        pairs="all",
    )


def _scene(world: World, dice: Dice, *, sizes: Sequence[str]) -> Scene:
    return replace(world, sizes=tuple(sizes)).draw(dice)


def _drawn(
    scene: Scene, flaw: str, dice: Dice, *, size: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """The image, and the pixels that the flaw changes; a flaw that changes too few is drawn again."""
    whole = render(scene, size=size).pixels
    while flaw:
        if flaw == PIECE:
            flawed_scene = replace(scene, things=(_broken(scene.things[0], dice),))
        else:
            defect = draw_defect(scene, dice, kinds=[kind for kind in KINDS if kind == flaw], on="thing")
            defect = replace(defect, extent=defect.extent * dice.uniform(0.6, 1.4))
            flawed_scene = replace(scene, defects=(defect,))
        pixels = render(flawed_scene, size=size).pixels
        mask = (pixels != whole).any(axis=2)
        if mask.sum() >= LEAST:
            return pixels, mask
    return whole, np.zeros(whole.shape[:2], dtype=bool)


def _broken(thing: Thing, dice: Dice) -> Thing:
    return replace(thing, state="broken", damage=dice.below(DAMAGES))


def _name(scene: Scene) -> str:
    return f"{scene.things[0].colour} {scene.things[0].shape}"
