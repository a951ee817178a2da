"""One large thing an image, its kind called by an invented word, so that nothing but its own pairs teaches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.data.sets.scenes import TEMPLATES, Dice, World, render
from tether.data.sets.scenes.world import BACKGROUNDS, COLOURS, SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def _world(colour: str, shape: str) -> World:
    seen = tuple(name for name, hides in BACKGROUNDS.items() if colour not in hides)
    return World(
        things=(1, 1),
        shapes=(shape,),
        colours=(colour,),
        backgrounds=seen,
        sizes=("large",),
        textures=("plain",),
        broken=0.0,
        pairs="all",
    )
