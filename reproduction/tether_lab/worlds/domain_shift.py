"""Single plain things as a labelled set, in the world's own light and in a dimmer, noisier one, and a CLIP of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.core.hash_rng import hash_uniform
from tether.data.sets.scenes import HELD_OUT_PAIRS, Dice, World
from tether.data.sets.scenes.world import COLOURS, SHAPES
from tether.models import Clip, create
from tether_lab.lab.trace import saw
from tether_lab.worlds.in_memory import draws, fit_pairs, small_drawn, unit_images

IMAGE_SIZE = 32
CLASSES: tuple[str, ...] = tuple(
    f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_PAIRS
)
"""A colour and a shape each."""
TEMPLATE = "a {}"
BRIGHTNESS, NOISE = 0.8, 12.0
"""What the other light leaves of each value, and the standard deviation of its noise, of 255."""
PAIRS, BATCH, WARMUP = 6000, 64, 30
_WORLD = World(
    things=(1, 1), sizes=("large",), textures=("plain",), backgrounds=("paper", "snow", "stone", "grass"), broken=0.0
)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with classes.

    Attributes:
        pixels: (n, 3, 32, 32).
        labels: (n,) place in the list of classes they were drawn for.
    """

    pixels: UInt8[Tensor, "n 3 32 32"]
    labels: Int[Tensor, " n"]


def split_classes(count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``count`` classes to learn and the rest, the same in every run."""
    order = np.argsort(hash_uniform(CLASSES, salt="single things"), kind="stable")
    return tuple(CLASSES[place] for place in order[:count]), tuple(CLASSES[place] for place in order[count:])


def draw(classes: Sequence[str], *, count: int, rng: np.random.Generator) -> Labelled:
    """Scenes of one large thing whose class is among those given, as often as chance has it."""
    place = {name: number for number, name in enumerate(classes)}
    scenes, labels = [], []
    while len(labels) < count:
        scene = _WORLD.draw(Dice(rng))
        number = place.get(f"{scene.things[0].colour} {scene.things[0].shape}")
        if number is not None:
            scenes.append(scene)
            labels.append(number)
    return Labelled(small_drawn(scenes, size=IMAGE_SIZE), torch.tensor(labels))


def other_light(things: Labelled, *, generator: torch.Generator) -> Labelled:
    """The same things, dimmed and noisy."""
    noise = torch.randn(things.pixels.shape, generator=generator)
    pixels = (things.pixels * BRIGHTNESS + NOISE * noise).round_().clamp_(0, 255).to(torch.uint8)
    return Labelled(pixels, things.labels)


def start(*, seed: int, steps: int, pairs: int = PAIRS) -> Clip:
    """A tiny CLIP of all classes in the world's own light, in eval mode.

    Args:
        seed: of its weights, images and batches.
        steps: of its training.
        pairs: images that it sees.
    """
    things = draw(CLASSES, count=pairs, rng=np.random.default_rng([seed, 1]))
    model = create("tiny", seed=seed, image_size=IMAGE_SIZE)
    tokens = model.tokenizer([TEMPLATE.format(name) for name in CLASSES])
    model.prune_vocabulary_(tokens)
    rows = draws(pairs, size=BATCH, generator=torch.Generator().manual_seed(seed), repeats=True)
    said = tokens[things.labels]
    return fit_pairs(model, things.pixels, said, rows=rows, steps=steps, warmup=WARMUP, seed=seed)


def accuracy(model: Clip, things: Labelled, *, class_text: Tensor) -> float:
    """Share whose most similar class text is the right one."""
    images = unit_images(model, things.pixels, batch=500)
    cosines = images @ class_text.T
    saw(cosines)
    return float((cosines.argmax(dim=1) == things.labels).float().mean())
