"""Quadruples as a source: a scene and an edit of it, each with a caption that is false of the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, cast

import numpy as np
from annotated_types import Ge, Le

from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.core.ranges import Whole, checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.sets.scenes.captions import short
from tether.data.sets.scenes.negatives import swap_attribute
from tether.data.sets.scenes.render import Side, render
from tether.data.sets.scenes.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, Dice, Scene, World
from tether.methods.tripletclip.edits import EditKind, draw_edit

TWINS_VERSION = 1
"""Counted up when the same settings would give other quadruples."""

Change = Literal["swap", "recolour", "reshape", "resize", "retexture", "break", "mend", "remove", "add", "background"]
_SAID: dict[str, tuple[str, ...]] = {
    "resize": ("size", "colour"),
    "retexture": ("texture", "colour"),
    "break": ("state", "colour"),
    "mend": ("state", "colour"),
}
"""Attributes that captions must say for a change to be heard; of the others, the colour."""
Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SHARES: dict[Split, tuple[float, float]] = {"test": (0.0, 0.1), "validation": (0.1, 0.2), "train": (0.2, 1.0)}
_TRIES = 20_000


@dataclass(frozen=True, slots=True)
class Quadruple:
    """Two scenes that differ in one respect, and two captions, each true of its own scene and false of the other.

    Attributes:
        scene: the first.
        text: its caption.
        other: the second, an edit of the first.
        other_text: its caption.
        instruction: what was done to the first; empty for a swap.
    """

    scene: Scene
    text: str
    other: Scene
    other_text: str
    instruction: str


class SceneTwins(IndexedSource):
    """Hard-negative quadruples of the synthetic world, drawn on the fly; row i is the same whatever is read before it.

    A row is an image with its caption; ``negative_image`` and ``negative_text`` in its ``meta`` are the twin, rendered
    by the same code, so nothing but the change tells them apart. What a test or validation row shows (the set of its
    colours and the set of its shapes, which a swap leaves alone) no training row shows.

    Args:
        split: ``train``, ``validation`` or ``test``.
        quadruples: how many.
        size: side of the images in pixels, 64 to 224.
        seed: another seed is another set of the same kind.
        change: ``swap`` exchanges two things' colours; the others are edits of one thing or of the background.
        form: ``quadruples``, or the same as ordinary ``pairs``, twice as many rows without a twin.
        things: least and greatest number of things in a scene, within 1 to 8; a swap needs two.
        template: frame of both captions.
        shapes: allowed shapes.
        colours: allowed colours.
        sizes: allowed size words.
        textures: allowed textures.
        backgrounds: allowed backgrounds.
    """

    name = "scene_twins"
    block_rows = 512

    @checked
    def __init__(
        self,
        *,
        split: Split = "train",
        quadruples: Annotated[int, Ge(1), Le(2**40)] = 5000,
        size: Side = 64,
        seed: Whole = 0,
        change: Change = "swap",
        form: Literal["quadruples", "pairs"] = "quadruples",
        things: tuple[int, int] = (2, 2),
        template: Literal["plain", "picture", "there", "see", "shows"] = "plain",
        shapes: tuple[str, ...] = SHAPES,
        colours: tuple[str, ...] = tuple(COLOURS),
        sizes: tuple[str, ...] = tuple(SIZES),
        textures: tuple[str, ...] = TEXTURES,
        backgrounds: tuple[str, ...] = tuple(BACKGROUNDS),
    ) -> None:
        """Check the settings; nothing is drawn yet."""
        self.world = World(
            things=things,
            shapes=shapes,
            colours=colours,
            sizes=sizes,
            textures=textures,
            backgrounds=backgrounds,
            pairs="all",
        )
        if change == "swap" and things[0] < 2:
            raise InputError(f"scene_twins: things: a swap needs at least two, got {things[0]}")
        self.split: Split = split
        self.change: Change = change
        self.form, self.quadruples, self.size, self.seed, self._template = form, quadruples, size, seed, template
        self.rows = quadruples * (2 if form == "pairs" else 1)
        self.version = str(TWINS_VERSION)

    def __len__(self) -> int:
        """Number of rows."""
        return self.rows

    def quadruple(self, index: int) -> Quadruple:
        """Quadruple ``index`` as scenes and words."""
        if not 0 <= index < self.quadruples:
            raise InputError(f"scene_twins: quadruple {index} asked of {self.quadruples}")
        dice = Dice(np.random.default_rng([self.seed, _SPLITS.index(self.split), index]))
        low, high = _SHARES[self.split]
        for _ in range(_TRIES):
            found = self._draw(dice)
            if found is not None and all(low <= _place(scene) < high for scene in (found.scene, found.other)):
                return found
        raise InputError(f"scene_twins: no {self.change} of split {self.split} found in this world; allow more of it")

    def row(self, index: int) -> Row:
        """Row ``index``; of ``pairs`` every second one is the twin of the one before."""
        found = self.quadruple(index // 2 if self.form == "pairs" else index)
        key = f"{self.split}/{self.seed}/{index:08d}"
        meta: dict[str, object] = {"change": self.change, "instruction": found.instruction}
        if self.form == "pairs":
            scene, text = (found.other, found.other_text) if index % 2 else (found.scene, found.text)
            return Row(key, render(scene, size=self.size).pixels, (text,), meta)
        meta["negative_image"] = render(found.other, size=self.size).pixels
        meta["negative_text"] = found.other_text
        return Row(key, render(found.scene, size=self.size).pixels, (found.text,), meta)

    def _draw(self, dice: Dice) -> Quadruple | None:
        scene = self.world.draw(dice)
        if self.change == "swap":
            twin = swap_attribute(scene, dice, template=self._template, world=self.world)
            return None if twin is None else Quadruple(scene, twin.text, twin.other, twin.other_text, "")
        edit = draw_edit(scene, dice, kind=cast(EditKind, self.change), world=self.world)
        if edit is None:
            return None
        texts = [self._caption(version) for version in (scene, edit.after)]
        return Quadruple(scene, texts[0], edit.after, texts[1], edit.instruction)

    def _caption(self, scene: Scene) -> str:
        return short(
            scene,
            template=self._template,
            order="given",
            details=_SAID.get(self.change, ("colour",)),
            background="say" if self.change == "background" else "omit",
        )


def _place(scene: Scene) -> float:
    """Where a scene stands among the splits, in [0, 1): by its colours and its shapes, not by which has which."""
    colours = " ".join(sorted(thing.colour for thing in scene.things))
    return _place_of(f"{colours} / {' '.join(sorted(thing.shape for thing in scene.things))}")


@lru_cache(maxsize=1 << 16)
def _place_of(words: str) -> float:
    return float(hash_uniform([words], salt="scene twins split")[0])
