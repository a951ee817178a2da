"""Tiny models trained on a tiny world, with one fault planted in each; trained once for all tests that ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tether.core.types import Block, ImageSpec, Row
from tether.data.images import resize_and_crop
from tether.data.sets.scenes import Dice, Scene, TextOverlay, World, render, short
from tether.losses.clip import clip_loss
from tether.models import create
from tether.models.towers.clip import Clip

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "green", "blue", "black")
WORLD = World(
    things=(1, 1),
    shapes=SHAPES,
    colours=COLOURS,
    sizes=("large",),
    textures=("plain",),
    backgrounds=("paper",),
    broken=0.0,
    pairs="all",
)
TEMPLATES = ("plain", "picture", "there", "see", "shows")
SIZE = 32
STEPS, BATCH = 160, 64


@dataclass(frozen=True)
class World32:
    """Scenes at 32 pixels with one caption each; a source."""

    scenes: tuple[Scene, ...]
    captions: tuple[str, ...]
    pixels: Tensor
    name: str = "tiny world"
    version: str = "1"

    def blocks(self) -> Sequence[Block]:
        return [Block("all", len(self.scenes))]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for at in range(start, len(self.scenes)):
            one_image = self.pixels[at].permute(1, 2, 0).contiguous().numpy()
            yield Row(f"scene {at}", one_image, (self.captions[at],), {"label": self.scenes[at].things[0].shape})


def world(count: int, *, seed: int, fault: str = "none") -> World32:
    """Scenes with a fault in what is seen or said: ``colour``, ``lettering``, ``swapped`` or ``none``."""
    dice = Dice(np.random.default_rng([seed, 77]))
    scenes, captions = [], []
    for _ in range(count):
        scene = WORLD.draw(dice)
        # Large and near the middle, so that a few seconds of training tell shapes apart.
        thing = replace(scene.things[0], units=36, x=dice.uniform(0.45, 0.55), y=dice.uniform(0.45, 0.55))
        scene = replace(scene, things=(thing,))
        if fault == "colour":  # each shape has a colour of its own, so the colour word says it all
            colour = COLOURS[SHAPES.index(thing.shape)]
            scene = replace(scene, things=(replace(thing, colour=colour),))
        caption = short(scene, template=dice.pick(TEMPLATES))
        if fault == "lettering":  # the shape's name stands in the image, and can be trusted more than the shape
            shown = thing.shape if dice.chance(0.5) else dice.pick(SHAPES)
            word = TextOverlay(thing.shape, "word", True, dice.pick(("top", "bottom")))
            scene = replace(scene, things=(replace(thing, shape=shown),), lettering=word)
        scenes.append(scene)
        captions.append(caption)
    if fault == "swapped":  # one in twenty has the caption of another
        wrong = dice.shuffled(range(count))[: count // 20]
        given = [captions[at] for at in wrong]
        for at, caption in zip(wrong, [*given[1:], given[0]], strict=True):
            captions[at] = caption
    spec = ImageSpec(size=(SIZE, SIZE))
    drawn = [torch.from_numpy(render(scene, size=64).pixels).permute(2, 0, 1).contiguous() for scene in scenes]
    return World32(tuple(scenes), tuple(captions), torch.stack([resize_and_crop(one, spec) for one in drawn]))


def caption_of(pairs: World32, row: int) -> str:
    """A caption of the row's own scene, in the frame of the one it was given."""
    thing, given = pairs.scenes[row].things[0], pairs.captions[row].split()
    return " ".join([*given[:-2], thing.colour, thing.shape])


@cache
def held_out(fault: str = "none", count: int = 400) -> World32:
    """Pairs that no model was trained on."""
    return world(count, seed=1, fault=fault)


@cache
def _trained(fault: str) -> dict[str, Tensor]:
    pairs = world(1200, seed=0, fault=fault)
    model = create("tiny", seed=0, context=16)
    ids = model.tokenizer(pairs.captions)
    model.prune_vocabulary_(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    chance = torch.Generator().manual_seed(0)
    names = {caption: number for number, caption in enumerate(dict.fromkeys(pairs.captions))}
    labels = torch.tensor([names[caption] for caption in pairs.captions])
    for _ in range(STEPS):
        some = torch.randperm(len(ids), generator=chance)[:BATCH]
        image, text = model.encode_image(pairs.pixels[some]).unit, model.encode_text(ids[some]).unit
        loss = clip_loss(image, text, model.logit_scale, labels=labels[some])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.clamp_logit_scale_()
        schedule.step()
    model.restore_vocabulary_()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def model(fault: str = "none") -> Clip:
    """A fresh copy, in evaluation mode."""
    made = create("tiny", seed=0, context=16)
    made.load_state_dict(_trained(fault))
    return made.eval()
