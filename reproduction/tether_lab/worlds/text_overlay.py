"""Single large things with something written beside them, and a tiny CLIP that may learn to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tether.data.sets.scenes import Dice, render
from tether.data.sets.scenes.captions import with_article
from tether.models import Clip, create
from tether_lab.worlds.in_memory import draws, fit_pairs, plain_world, unit_images, unit_texts

SIDE, PATCH, CONTEXT = 64, 16, 16
COLOURS = ("red", "orange", "green", "turquoise", "blue")
SHAPES = ("circle", "square", "star", "heart", "cross", "moon")
"""Few, so that a batch holds several images of one thing and only their text tells them apart: a model of this size
then learns to read within some hundred steps."""
POINTS = 20
"""Size of the letters in pixels."""
AWAY, JITTER = (0.3, 0.7), 0.06
"""Height of a thing, as a share of the side from the top, so that it lies off the text in the middle; and its play."""
INKS = {"paper": ("black",), "snow": ("black",), "stone": ("black", "white")}
"""Every background with the letters that can be read on it."""
BATCH, WARMUP = 128, 30
_WORLD = plain_world(things=(1, 1), colours=COLOURS, shapes=SHAPES, sizes=("large",), backgrounds=tuple(INKS))


@dataclass(frozen=True, slots=True)
class Lettered:
    """Images of things with or without text.

    Attributes:
        pixels: (n, 3, 64, 64).
        colours: (n,) number of the thing's colour in ``COLOURS``.
        shapes: (n,) number of its shape in ``SHAPES``.
        boxes: (n, 4) where text stands, x0, y0, x1, y1 with the last two exclusive; zeros where there is none.
    """

    pixels: UInt8[Tensor, "n 3 64 64"]
    colours: Int[np.ndarray, " n"]
    shapes: Int[np.ndarray, " n"]
    boxes: Int[np.ndarray, "n 4"]

    def __len__(self) -> int:
        """How many images."""
        return len(self.pixels)

    def said(self, row: int) -> str:
        """What an image shows, such as ``an orange ring``."""
        return named(int(self.colours[row]), int(self.shapes[row]))


def named(colour: int, shape: int) -> str:
    """A thing in words."""
    return with_article(f"{COLOURS[colour]} {SHAPES[shape]}")


def draw(written: Sequence[str | None], *, rng: np.random.Generator) -> Lettered:
    """One image for each entry, with that text across the middle and the thing above or below it."""
    dice = Dice(rng)
    pixels = np.empty((len(written), SIDE, SIDE, 3), np.uint8)
    places, boxes = [], np.zeros((len(written), 4), np.int64)
    for row, text in enumerate(written):
        scene = _WORLD.draw(dice)
        x, y = 0.5 + dice.uniform(-JITTER, JITTER), dice.pick(AWAY) + dice.uniform(-JITTER, JITTER)
        thing = replace(scene.things[0], x=x, y=y)
        pixels[row] = render(replace(scene, things=(thing,)), size=SIDE).pixels
        places.append((COLOURS.index(thing.colour), SHAPES.index(thing.shape)))
        if text is not None:
            boxes[row] = _write(pixels[row], text, colour=dice.pick(INKS[scene.background]))
    colours, shapes = np.array(places).T
    return Lettered(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), colours, shapes, boxes)


def _write(pixels: UInt8[np.ndarray, "h w 3"], text: str, *, colour: str) -> list[int]:
    """Draw a line into an image; the box around it."""
    image = Image.fromarray(pixels)
    font = ImageFont.load_default(POINTS)
    left, top, right, bottom = font.getbbox(text)
    x0, y0 = (SIDE - (right - left)) / 2, (SIDE - (bottom - top)) / 2
    ImageDraw.Draw(image).text((x0 - left, y0 - top), text, fill=colour, font=font)
    pixels[:] = np.asarray(image)
    box = (x0 - 1, y0 - 1, x0 + right - left + 1, y0 + bottom - top + 1)
    return [min(max(round(edge), 0), SIDE) for edge in box]


def train(pixels: UInt8[Tensor, "n 3 64 64"], texts: Sequence[str], *, seed: int, steps: int) -> Clip:
    """A tiny CLIP of these pairs, in eval mode; equal seeds see equal weights and numbers of rows."""
    model = create("tiny", seed=seed, image_size=SIDE, patch=PATCH, context=CONTEXT)
    tokens = model.tokenizer(texts)
    model.prune_vocabulary_(tokens)
    size = min(BATCH, len(pixels))
    rows = draws(len(pixels), size=size, generator=torch.Generator().manual_seed(seed), repeats=True)
    return fit_pairs(model, pixels, tokens, rows=rows, steps=steps, warmup=WARMUP, seed=seed)


def accuracy(model: Clip, things: Lettered) -> float:
    """Zero-shot accuracy in per cent, mean of naming the colour and naming the shape among all things."""
    pairs = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
    heads: Float[Tensor, "c d"] = unit_texts(model, [named(*pair) for pair in pairs])
    images = unit_images(model, things.pixels, batch=500)
    found = np.array(pairs)[(images @ heads.T).argmax(dim=1).numpy()]
    right = [(found[:, 0] == things.colours).mean(), (found[:, 1] == things.shapes).mean()]
    return 100 * float(np.mean(right))
