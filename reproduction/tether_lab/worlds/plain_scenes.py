"""Scenes of one or two large or middling things, said in full, and tiny CLIPs that learn them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tether.core.state_file import read_state, wide_array, write_state
from tether.data.sets.scenes import Scene, render, short
from tether.losses import ClipLoss
from tether.models.convert.weights import fill
from tether.models.presets import configure
from tether.models.tokenizer import FunctionTokenizer
from tether.models.towers.clip import Clip
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds import in_memory

SIDE = 64
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "orange", "green", "blue", "purple", "pink")
SIZES = ("medium", "large")
GROUNDS = ("paper", "snow", "stone", "wood")
WORDS = ("a", "and", *SIZES, *COLOURS, *SHAPES)
"""All that captions say; a token for each, between a start and an end."""
CONTEXT = 16
FILE = "model.safetensors"
SCENES, BATCH, RATE = 4_000, 64, 1e-3


@dataclass(frozen=True, slots=True)
class PlainScenes:
    """Scenes as arrays.

    Attributes:
        scenes: what they show.
        pixels: (n, 3, 64, 64).
        texts: each with sizes, colours and shapes.
        things: (n, 64) the share of each patch of 8 px that a thing covers, row by row.
    """

    scenes: list[Scene]
    pixels: UInt8[Tensor, "n 3 h w"]
    texts: list[str]
    things: Float[Tensor, "n p"]

    def __len__(self) -> int:
        """How many."""
        return len(self.texts)


def told_scenes(lab: Lab, name: str, *, count: int, things: tuple[int, int] = (1, 2)) -> PlainScenes:
    """Draw them by the lab's seed and a name."""
    world = in_memory.plain_world(things=things, shapes=SHAPES, colours=COLOURS, sizes=SIZES, backgrounds=GROUNDS)
    dice = in_memory.dice_of(lab, name, salt="told scenes")
    scenes = [world.draw(dice) for _ in range(count)]
    drawn = [render(scene, size=SIDE) for scene in scenes]
    texts = [short(one, details=("size", "colour"), order="random", dice=dice) for one in scenes]
    covered = torch.from_numpy(np.stack([one.labels > 0 for one in drawn])).float()
    shares = F.avg_pool2d(covered[:, None], 8).flatten(1)
    pixels = torch.stack([torch.from_numpy(one.pixels).permute(2, 0, 1) for one in drawn])
    return PlainScenes(scenes, pixels, texts, shares)


def words(texts: Sequence[str]) -> list[list[int]]:
    """A token for each word."""
    return [[1, *(WORDS.index(word) + 2 for word in text.split()), len(WORDS) + 2] for text in texts]


def new_clip(seed: int, **settings: Any) -> Clip:
    """A tiny CLIP that reads words, with weights drawn by a seed; other settings are ``configure``'s."""
    text = {"vocabulary": len(WORDS) + 3, "end": len(WORDS) + 2}
    config = configure("tiny", image_size=SIDE, context=CONTEXT, text=text, **settings)
    model = Clip(config, tokenizer=FunctionTokenizer(words, context_length=CONTEXT, vocab_size=len(WORDS) + 3))
    model.initialise_(torch.Generator().manual_seed(seed))
    return model


def pixel_clip(lab: Lab, *, steps: int, rate: float = RATE, things: tuple[int, int] = (1, 2), **settings: Any) -> Clip:
    """A CLIP on pixels, trained at the first call of a seed, then read from the user's cache.

    Args:
        lab: seed and budget.
        steps: of its training.
        rate: learning rate.
        things: least and greatest number in a scene.
        **settings: of ``new_clip``.
    """

    def make(folder: Path) -> None:
        folder.mkdir()
        told = told_scenes(lab, "train", count=lab.steps(SCENES, 32), things=things)
        model = taught(lab, new_clip(lab.seed, **settings), told, steps=steps, rate=rate)
        arrays = {name: wide_array(value) for name, value in model.state_dict().items()}
        write_state(folder / FILE, format="plain-scenes", settings={}, arrays=arrays)

    facts = [lab.seed, lab.smoke, steps, rate, things, settings]
    folder = cached_model("plain-scenes", made_by=Path(__file__), facts=facts, make=make)
    _, arrays = read_state(folder / FILE, what="model", format="plain-scenes")
    model = new_clip(lab.seed, **settings)
    fill(model, {name: torch.from_numpy(value) for name, value in arrays.items()}, where=folder)
    return model.eval()


def taught(lab: Lab, model: Clip, told: PlainScenes, *, steps: int, rate: float = RATE) -> Clip:
    """Teach a model on scenes, the same batches in the same order for all, and put it in evaluation mode."""
    tokens, count = model.tokenizer(told.texts), lab.steps(steps)
    batches = in_memory.shuffled(told.pixels, tokens, size=BATCH, generator=lab.generator("batches"))
    step = ContrastiveStep(ClipLoss(duplicates="positives"), steps=count, seed=lab.seed)
    return in_memory.fit_batches(model, step, batches, steps=count, warmup=count // 10, learning_rate=rate)


def named(model: Clip, told: PlainScenes, images: Float[Tensor, "n d"]) -> dict[str, float]:
    """How often shape, colour and size of single things are named right, in percent, and their mean.

    Args:
        model: reads the texts.
        told: scenes of one thing.
        images: their unit rows.
    """
    found = {}
    for attribute, names in {"shape": SHAPES, "colour": COLOURS, "size": SIZES}.items():
        rows = torch.stack([_class_text(model, name) for name in names])
        labels = torch.tensor([names.index(getattr(scene.things[0], attribute)) for scene in told.scenes])
        found[attribute] = in_memory.percent((images @ rows.T).argmax(dim=1) == labels)
    return {**found, "mean": sum(found.values()) / len(found)}


def things_called(name: str) -> list[str]:
    """All of this size, colour or shape, such as ``a large red circle``."""
    every = [(size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES]
    return ["a " + " ".join(thing) for thing in every if name in thing]


def _class_text(model: Clip, name: str) -> Tensor:
    """Mean of the unit rows of all that is called so."""
    return F.normalize(in_memory.unit_texts(model, things_called(name)).mean(dim=0), dim=0)


def hidden_share(told: PlainScenes, rows: Sequence[int], hidden: Bool[Tensor, "n p"]) -> float:
    """Of what things cover, the share that hidden patches hide, in percent."""
    covered = told.things[list(rows)]
    return 100 * float((covered * hidden).sum() / covered.sum())
