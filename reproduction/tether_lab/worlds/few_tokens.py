"""Scenes told in some twenty words, and a small CLIP that may see few of the patches and few of the words."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from tether.core.types import Batch
from tether.data.captions.rng import of_key
from tether.data.sets.scenes import TEMPLATES, Dice, Scene, World, render, short
from tether.evaluate.retrieval import recall_at_k
from tether.losses import ClipLoss
from tether.methods.clipa.shorten import Shortened, Shortening
from tether.models import Clip, create
from tether.models.tokenizer import TextCutWarning
from tether.training.steps.composed import ComposedStep
from tether_lab.worlds.in_memory import drawn, draws, fit_batches, unit_pairs

SIDE, PATCH, CONTEXT, BATCH = 64, 8, 32, 64
"""Pixels of an image's and of a patch's side, tokens of a text, pairs of a batch."""
SMALL_SIDE, FEW_WORDS = 32, 12
"""The same of images and texts while tokens are few."""
SAID = ("size", "texture", "colour")
RICH = World(things=(2, 3))
"""Two or three things on any ground."""
SMALL_THINGS = World(things=(2, 3), sizes=("small", "medium"))
"""The same with things that cover at most a quarter of the image."""


@dataclass(frozen=True, slots=True)
class Told:
    """Scenes, their images and their captions.

    Attributes:
        scenes: what is seen.
        pixels: (n, 3, 64, 64).
        captions: one of each scene, about eighteen words: what there is, how it looks, and where.
    """

    scenes: tuple[Scene, ...]
    pixels: UInt8[Tensor, "n 3 h w"]
    captions: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def told(split: Literal["train", "test"], *, count: int, seed: int, world: World = RICH) -> Told:
    """``count`` scenes; another split or another seed is another set of the same kind."""
    dice = Dice(np.random.default_rng([seed, ("train", "test").index(split)]))
    scenes = tuple(world.draw(dice) for _ in range(count))
    frames = [dice.pick(tuple(TEMPLATES)) for _ in scenes]
    captions = [
        short(scene, template=frame, details=SAID, background="say")
        for scene, frame in zip(scenes, frames, strict=True)
    ]
    return Told(scenes, drawn(scenes, size=SIDE), tuple(captions))


def thing_patches(scenes: Sequence[Scene]) -> Bool[Tensor, "n p"]:
    """Which patches of each image show a thing, or the edge of one."""
    labels = torch.stack([torch.from_numpy(render(scene, size=SIDE).labels) for scene in scenes])
    return F.max_pool2d(labels[:, None].float(), PATCH).flatten(1) > 0


def shrunk(pixels: UInt8[Tensor, "n 3 h w"], *, side: int = SMALL_SIDE) -> UInt8[Tensor, "n 3 s s"]:
    """Smaller images."""
    made = F.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True)
    return made.round().clamp(0, 255).to(torch.uint8)


def shortened(captions: Sequence[str], *, context: int = FEW_WORDS, method: Shortening = "syntax") -> tuple[str, ...]:
    """Captions of at most ``context`` - 2 words."""
    pick = Shortened(context=context, method=method)
    return tuple(pick.shortened(text, generator=of_key(text, seed=0, salt="few words")) for text in captions)


def new_clip(*, seed: int, side: int = SIDE, context: int = CONTEXT) -> Clip:
    """A tiny CLIP for images and texts of a size."""
    return create("tiny", seed=seed, image_size=side, patch=PATCH, context=context)


def grown(model: Clip) -> Clip:
    """A copy for whole images and texts, its positions stretched as CLIPA's PyTorch code does it."""
    return model.resized(image_size=SIDE, context=CONTEXT, how=[{"name": "bicubic", "antialias": True}, "linear"])


def pruned_to_(model: Clip, texts: Sequence[str]) -> Int[Tensor, "n l"]:
    """The texts as tokens, cut where they are too long; the model's table keeps these alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # a word may be more than one token
        tokens = model.tokenizer(list(texts))
    model.prune_vocabulary_(tokens)
    return tokens


def fit(
    model: Clip,
    pixels: UInt8[Tensor, "n 3 h w"],
    texts: Sequence[str],
    *,
    seed: int,
    steps: int,
    rate: float,
    image: Mapping[str, Any] | None = None,
    more_views: Mapping[str, Mapping[str, Any]] | None = None,
    teacher: Mapping[str, Any] | None = None,
    watch: Callable[[Mapping[str, Tensor]], None] | None = None,
) -> Clip:
    """Train a model in place, with a warm-up of a tenth of the steps and a cosine.

    Args:
        model: of the size of the images; it comes back in evaluation mode.
        pixels: the images.
        texts: one of each.
        seed: of the order of the images and of what is seen of them.
        steps: optimiser steps.
        rate: the highest learning rate.
        image: settings of the image view, such as ``{"keep_patches": 0.5}``.
        more_views: of the step, which the image view names.
        teacher: of the step.
        watch: is given the teacher's tensors once, when a third of the steps is over.
    """
    tokens = pruned_to_(model, texts)
    views = {"image": dict(image or {}), "text": {}} | {name: dict(view) for name, view in (more_views or {}).items()}
    step = ComposedStep(ClipLoss(), steps=steps, seed=seed, views=views, teacher=dict(teacher) if teacher else None)
    step.new_heads(model)  # there are none, but the teacher looks at the model

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        order = draws(len(pixels), size=BATCH, generator=generator)
        for number, rows in enumerate(order):
            if watch is not None and number == steps // 3:
                watch(step.teacher_tensors())
            yield Batch(pixels[rows], tokens[rows])

    fit_batches(model, step, batches(), steps=steps, warmup=max(1, steps // 10), learning_rate=rate)
    model.restore_vocabulary_()
    return model


def recalls(model: Clip, pixels: UInt8[Tensor, "n 3 h w"], texts: Sequence[str]) -> tuple[float, float]:
    """Recall at 1 of image to text and of text to image, in percent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)
        found = recall_at_k(*unit_pairs(model, pixels, texts), k=(1,))
    return 100 * found["image_to_text_r1"], 100 * found["text_to_image_r1"]
