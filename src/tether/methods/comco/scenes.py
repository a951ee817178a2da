"""Images of several objects of which one is enlarged, and of each object alone (ComCO, arXiv 2502.19842)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import UInt8

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked
from tether.data.captions.grammar import with_articles
from tether.data.sets.scenes.render import Side, render
from tether.data.sets.scenes.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, Dice, Scene, Thing, arrange

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 12
"""Diameter of an object that is not enlarged, in 64ths of the image's side."""
ALONE = 20
"""Diameter of an object that is alone."""


@dataclass(frozen=True, slots=True)
class MultiObjectItem:
    """One image.

    Attributes:
        objects: the object at each position.
        scene: what is drawn; its things are in that order.
        pixels: (h, w, 3).
    """

    objects: tuple[int, ...]
    scene: Scene
    pixels: UInt8[np.ndarray, "h w 3"]


class MultiObjectWorld:
    """Images of n different objects out of K; the one at position ``big`` is enlarged, all others are of one size.

    A position is where an object stands in the list, as in a caption; where it lies in the image is drawn at random for
    each, so neither position nor size tells the other. Item i is the same whatever is drawn before it.

    Args:
        objects: K different pairs of colour and shape, such as ``("red", "star")``, that can be seen on the background.
        n: objects in an image, 2 to 5 and at most K.
        big: position of the enlarged one, 0 to n - 1; None enlarges none.
        ratio: its diameter over that of the others, 1 to 2.4.
        size: side of the images in pixels.
        background: what everything lies on.
        seed: another seed is another set of images.
    """

    @checked
    def __init__(
        self,
        *,
        objects: Sequence[tuple[str, str]],
        n: Annotated[int, Ge(2), Le(5)] = 3,
        big: Whole | None = 0,
        ratio: Annotated[float, Ge(1), Le(SIZES["large"][1] / SMALL)] = 2.2,
        size: Side = 64,
        background: str = "paper",
        seed: int = 0,
    ) -> None:
        """Check the settings; nothing is drawn yet."""
        if background not in BACKGROUNDS:
            raise InputError(f"background: expected one of {', '.join(BACKGROUNDS)}, got {background!r}")
        self.objects = tuple((colour, shape) for colour, shape in objects)
        for colour, shape in self.objects:
            if colour not in COLOURS or shape not in SHAPES:
                raise InputError(f"objects: no {colour} {shape} is known")
            if colour in BACKGROUNDS[background]:
                raise InputError(f"objects: a {colour} {shape} cannot be seen on {background}")
        if len(set(self.objects)) < len(self.objects):
            raise InputError("objects: expected each once")
        if n > len(self.objects):
            raise InputError(f"n: expected at most {len(self.objects)}, the number of objects, got {n}")
        if big is not None and big >= n:
            raise InputError(f"big: expected a position from 0 to {n - 1} or None, got {big}")
        self.n, self.big, self.ratio, self.size = n, big, float(ratio), size
        self.background, self.seed = background, seed

    @property
    def names(self) -> tuple[str, ...]:
        """Each object as a caption says it, such as ``a red star``."""
        return tuple(with_articles(f"a {colour} {shape}") for colour, shape in self.objects)

    @checked
    def item(self, index: Whole) -> MultiObjectItem:
        """Image ``index``, from 0."""
        rng = np.random.default_rng([self.seed, 0, index])
        chosen = tuple(rng.permutation(len(self.objects))[: self.n].tolist())
        units = [round(SMALL * self.ratio) if place == self.big else SMALL for place in range(self.n)]
        return self._drawn(chosen, units, Dice(rng))

    @checked
    def single(self, index: Whole, *, view: Whole = 0) -> MultiObjectItem:
        """Object ``index`` alone; another view lies elsewhere."""
        if index >= len(self.objects):
            raise InputError(f"single: expected an object from 0 to {len(self.objects) - 1}, got {index}")
        rng = np.random.default_rng([self.seed, 1, index, view])
        return self._drawn((index,), [ALONE], Dice(rng))

    def pixels(self, items: Sequence[MultiObjectItem]) -> Tensor:
        """(b, 3, h, w) uint8 images of some items, as a model takes them."""
        import torch

        return torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2).contiguous()

    def _drawn(self, chosen: tuple[int, ...], units: list[int], dice: Dice) -> MultiObjectItem:
        # Room is found in a random order, so that being drawn first goes with no place.
        order = dice.shuffled(range(len(units)))
        places = arrange([units[place] for place in order], dice)
        while len(places) < len(units):  # quarters have room for four
            places = arrange([units[place] for place in order], dice)
        spots = dict(zip(order, places, strict=True))
        things = tuple(
            Thing(shape, colour, _word(unit), "plain", "whole", *spots[place], unit)
            for place, ((colour, shape), unit) in enumerate(
                zip((self.objects[index] for index in chosen), units, strict=True)
            )
        )
        scene = Scene(things, self.background)
        return MultiObjectItem(chosen, scene, render(scene, size=self.size).pixels)


def _word(units: int) -> str:
    """The size word whose range is nearest."""
    return min(SIZES, key=lambda word: abs(units - sum(SIZES[word]) / 2))
