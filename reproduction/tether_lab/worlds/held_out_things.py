"""Single things whose classes a small CLIP never saw together: a few of each to learn from, others to ask about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.labelled import LabelledRows, read_labels
from tether.data.sets.scenes import Dice, World
from tether.data.sets.scenes.world import BACKGROUNDS
from tether.models import Clip, create
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds import domain_shift
from tether_lab.worlds.in_memory import draws, fit_pairs, small_drawn

HELD_OUT, LEARNT = 40, 20
"""Classes that the CLIP never sees, and how many of them are learnt; the others are the unseen ones."""
STEPS, BATCH, WARMUP, PAIRS = 800, 64, 30, 6000
GROUNDS = ("paper", "snow", "stone", "grass")
TRAIN, TEST = 60, 50
"""Images of each held-out class to draw from, and to ask about."""


class ThingRows(IndexedSource):
    """Images in memory, each with the name of its class.

    Attributes:
        pixels: (n, 3, 32, 32).
        names: n classes.
    """

    def __init__(self, pixels: UInt8[Tensor, "n 3 h w"], names: Sequence[str], *, name: str) -> None:
        """Take the images."""
        self.pixels, self.names, self.name, self.version = pixels, list(names), name, name

    def __len__(self) -> int:
        """See IndexedSource."""
        return len(self.names)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        image = self.pixels[index].permute(1, 2, 0).contiguous().numpy()
        return Row(f"{self.name} {index}", image, (), {"label": self.names[index]})


@dataclass(frozen=True, slots=True)
class HeldOutThings:
    """One seed of the world.

    Attributes:
        model: a tiny CLIP that saw every colour and every shape, but none of these classes; in eval mode.
        train: images to draw from, of learnt and unseen classes.
        test: others, in the same classes.
        unseen: names of the classes that are not learnt.
    """

    model: Clip
    train: LabelledRows
    test: LabelledRows
    unseen: tuple[str, ...]

    @property
    def prompts(self) -> tuple[tuple[str, ...], ...]:
        """The one sentence of each class."""
        return tuple((domain_shift.TEMPLATE.format(name),) for name in self.train.classes)


def held_out_things(lab: Lab) -> HeldOutThings:
    """The world of a seed; its CLIP is trained at the first call, then read from the user's cache.

    Which classes are held out, learnt and unseen is the same in every seed.
    """
    held, known = domain_shift.split_classes(HELD_OUT)
    teach = partial(_start, lab, known, text=(*known, *held))
    model = cached_clip("held-out-things", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])
    parts = [_rows(held, lab.steps(count, 22), seed=lab.seed, part=part) for part, count in ((2, TRAIN), (3, TEST))]
    return HeldOutThings(model, parts[0], parts[1], held[LEARNT:])


def _start(lab: Lab, known: Sequence[str], *, text: Sequence[str]) -> Clip:
    count = lab.steps(PAIRS, 64)
    things = domain_shift.draw(known, count=count, rng=np.random.default_rng([lab.seed, 1]))
    model = create("tiny", seed=lab.seed, image_size=domain_shift.IMAGE_SIZE)
    tokens = model.tokenizer([domain_shift.TEMPLATE.format(name) for name in text])
    model.prune_vocabulary_(tokens)
    rows = draws(count, size=BATCH, generator=torch.Generator().manual_seed(lab.seed), repeats=True)
    said = tokens[things.labels]
    return fit_pairs(model, things.pixels, said, rows=rows, steps=lab.steps(STEPS), warmup=WARMUP, seed=lab.seed)


def _rows(names: Sequence[str], count: int, *, seed: int, part: int) -> LabelledRows:
    dice = Dice(np.random.default_rng([seed, part]))
    scenes = [world.draw(dice) for world in map(_only, names) for _ in range(count)]
    pixels = small_drawn(scenes, size=domain_shift.IMAGE_SIZE)
    labels = [name for name in names for _ in range(count)]
    return read_labels(ThingRows(pixels, labels, name=f"things {seed} {part}"), classes=names)


def _only(name: str) -> World:
    """Scenes of one class, otherwise as ``domain_shift`` draws them."""
    colour, shape = name.split()
    grounds = tuple(one for one in GROUNDS if colour not in BACKGROUNDS[one])
    return World((1, 1), (shape,), (colour,), ("large",), ("plain",), grounds, broken=0.0)
