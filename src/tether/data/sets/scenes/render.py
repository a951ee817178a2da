"""Scenes to pixels with their ground truth; no chance in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Bool, Int, UInt8

from tether.core.errors import InputError
from tether.data.sets.scenes import sprites
from tether.data.sets.scenes.backgrounds import background
from tether.data.sets.scenes.defects import plant
from tether.data.sets.scenes.lettering import letter
from tether.data.sets.scenes.world import COLOURS, Scene, Thing

SMALLEST, LARGEST = 64, 224
Side = Annotated[int, Ge(SMALLEST), Le(LARGEST)]
"""Pixels of an image's side."""
_SHADE = 14  # how far a shade of 1 lifts every channel


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """A rendered scene.

    Attributes:
        pixels: (h, w, 3).
        labels: (h, w), 0 for the background and i + 1 for thing i: every pixel the thing touches, however little.
        boxes: (n, 4) x0, y0, x1, y1 in pixels around each thing's label, the last two exclusive.
        text: (h, w), where lettering lies.
        flaw: (h, w), where a planted defect lies.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    boxes: Int[np.ndarray, "n 4"]
    text: Bool[np.ndarray, "h w"] | None = None
    flaw: Bool[np.ndarray, "h w"] | None = None

    def mask(self, index: int) -> Bool[np.ndarray, "h w"]:
        """Where thing ``index`` is."""
        return self.labels == index + 1


def render(scene: Scene, *, size: int = 64) -> RenderedScene:
    """Draw a scene as a square image of 64 to 224 pixels a side.

    Things first, then planted defects over them, then lettering over all; ``labels`` and ``boxes`` describe the
    things as if nothing lay over them.
    """
    if not SMALLEST <= size <= LARGEST:
        raise InputError(f"scenes: size: expected {SMALLEST} to {LARGEST} pixels, got {size}")
    pixels = background(scene.background, scene.variant, size).copy()
    labels = np.zeros((size, size), dtype=np.uint8)
    boxes = [_draw(thing, index + 1, pixels, labels) for index, thing in enumerate(scene.things)]
    flaw = plant(scene.defects, pixels) if scene.defects else None
    text = letter(scene.lettering, pixels) if scene.lettering else None
    return RenderedScene(pixels, labels, np.array(boxes, dtype=np.int32).reshape(-1, 4), text, flaw)


def _draw(thing: Thing, label: int, pixels: np.ndarray, labels: np.ndarray) -> tuple[int, int, int, int]:
    size = pixels.shape[0]
    diameter = round(thing.units * size / 64)
    left = min(max(round(thing.x * size - diameter / 2), 0), size - diameter)
    top = min(max(round(thing.y * size - diameter / 2), 0), size - diameter)
    damage = thing.damage if thing.state == "broken" else -1
    form = sprites.sprite(thing.shape, diameter, thing.tilt, damage)
    ink = sprites.inks(thing.shape, diameter, thing.tilt, damage, thing.texture)
    tones = sprites.tones(COLOURS[thing.colour], round(thing.shade * _SHADE))
    window = (slice(top, top + diameter), slice(left, left + diameter))
    mixed = tones[ink]
    mixed *= form.alpha
    mixed += pixels[window] * form.rest
    mixed >>= 8
    pixels[window] = mixed
    labels[window][form.touched] = label
    x0, y0, x1, y1 = form.box
    return left + x0, top + y0, left + x1, top + y1
