"""One large thing an image, its kind called by an invented word, so that nothing but its own pairs teaches it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.data.sets.scenes import TEMPLATES, Dice, World, render
from tether.data.sets.scenes.world import BACKGROUNDS, COLOURS, SHAPES
from tether.losses import clip_loss
from tether.models import create
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import draws, plain_world

SIZE = 32
CLASSES: tuple[tuple[str, str], ...] = tuple(
    (colour, shape) for colour in COLOURS if colour not in ("grey", "white", "black") for shape in SHAPES
)
"""90 pairs of colour and shape; without grey, white and black, which few backgrounds show well."""
_HEADS = ("bo", "da", "fi", "gu", "ke", "lo", "mi", "na", "po")
_TAILS = ("bra", "cle", "dro", "fli", "gru", "ska", "sto", "tre", "vli", "zwo")
NAMES: tuple[str, ...] = tuple(head + tail for head in _HEADS for tail in _TAILS)
"""The word of each class."""
PROMPT = "a picture of a {}"


@dataclass(frozen=True, slots=True)
class Things:
    """Images with captions and classes.

    Attributes:
        pixels: (n, 3, 32, 32).
        texts: a caption each, with the class's word in it.
        labels: (n,) place in ``CLASSES``.
    """

    pixels: UInt8[Tensor, "n 3 32 32"]
    texts: Sequence[str]
    labels: Int[np.ndarray, " n"]


def zipf_counts(total: int, *, exponent: float) -> Int[np.ndarray, " c"]:
    """Pairs of the most frequent class, the next, and so on, about ``total`` in all, each at least one."""
    share = 1.0 / np.arange(1, len(CLASSES) + 1) ** exponent
    return np.maximum(np.round(total * share / share.sum()), 1).astype(int)


def scenes(labels: Int[np.ndarray, " n"], *, rng: np.random.Generator) -> Things:
    """A scene for each label, cut out around its thing, under one of the world's templates."""
    worlds = {pair: _world(*pair) for pair in CLASSES}
    dice, texts = Dice(rng), []
    images = np.empty((len(labels), SIZE, SIZE, 3), np.uint8)
    for index, label in enumerate(labels):
        scene = worlds[CLASSES[label]].draw(dice)
        thing = scene.things[0]
        left, top = (min(max(round(2 * SIZE * place) - SIZE // 2, 0), SIZE) for place in (thing.x, thing.y))
        images[index] = render(scene, size=2 * SIZE).pixels[top : top + SIZE, left : left + SIZE]
        texts.append(TEMPLATES[dice.pick(tuple(TEMPLATES))].format(things=f"a {NAMES[label]}"))
    return Things(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), texts, np.asarray(labels))


def long_tailed(
    lab: Lab, total: int, *, exponent: float, asked: int
) -> tuple[Things, Things, Int[np.ndarray, " c"], Int[np.ndarray, " c"]]:
    """Scenes whose classes are as frequent as Zipf's law has it, and as many of each class to ask.

    Args:
        lab: seed.
        total: scenes to learn from, about.
        exponent: of the law.
        asked: scenes of each class to ask.

    Returns:
        Both, the classes from the most frequent to the rarest, and how many scenes each of these has.
    """
    order = np.random.default_rng([lab.seed, 0]).permutation(len(CLASSES))
    counts = zipf_counts(total, exponent=exponent)
    pool = scenes(np.repeat(order, counts), rng=np.random.default_rng([lab.seed, 1]))
    test = scenes(np.repeat(np.arange(len(CLASSES)), asked), rng=np.random.default_rng([lab.seed, 2]))
    return pool, test, order, counts


def optimizer_of(
    parameters: Iterable[nn.Parameter], *, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and a warm-up to the rate with a cosine."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)


def clip_scores(
    lab: Lab,
    pixels: UInt8[Tensor, "n 3 32 32"],
    texts: Sequence[str],
    *,
    asked: UInt8[Tensor, "m 3 32 32"],
    names: Sequence[str] = NAMES,
    steps: int,
    batch: int,
    rate: float,
) -> Float[Tensor, "m c"]:
    """What a tiny CLIP that learnt pairs says of images, by a prompt for each name.

    Args:
        lab: seed of the weights and the batches.
        pixels: to learn from.
        texts: a caption of each.
        asked: images to name.
        names: of the classes.
        steps: optimiser steps.
        batch: pairs in a step.
        rate: the highest learning rate.
    """
    model = create("tiny", seed=lab.seed)
    tokens = model.tokenizer(list(texts))
    optimizer, schedule = optimizer_of(model.parameters(), rate=rate, steps=steps)
    rows = draws(len(tokens), size=batch, generator=lab.generator("batches"), repeats=True)
    for _, chosen in zip(range(steps), rows, strict=False):
        image, text = model.encode_image(pixels[chosen]).unit, model.encode_text(tokens[chosen]).unit
        optimizer.zero_grad()
        clip_loss(image, text, model.logit_scale).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        heads = model.encode_text(model.tokenizer([PROMPT.format(name) for name in names])).unit
        return torch.cat([model.encode_image(part).unit @ heads.T for part in asked.split(256)])


def _world(colour: str, shape: str) -> World:
    seen = tuple(name for name, hides in BACKGROUNDS.items() if colour not in hides)
    return plain_world(things=(1, 1), shapes=(shape,), colours=(colour,), backgrounds=seen, sizes=("large",))
