"""The synthetic world as a source of rows: any number of scenes, each drawn from its own generator."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from tether.core.errors import InputError
from tether.core.ranges import Share, Whole, checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.sets.scenes.biases import BiasKind, draw_biased
from tether.data.sets.scenes.captions import HELD_OUT_TEMPLATES, TEMPLATES, Order, long, noun, short
from tether.data.sets.scenes.defects import draw_defect
from tether.data.sets.scenes.lettering import draw_lettering
from tether.data.sets.scenes.negatives import Negative, replace_thing, swap_attribute, swap_relation
from tether.data.sets.scenes.relief import relief
from tether.data.sets.scenes.render import RenderedScene, Side, render
from tether.data.sets.scenes.world import SIZES, Attribute, Dice, Scene, World

WORLD_VERSION = 1
"""Counted up when the same generator would give another scene, image or caption."""

Split = Literal["train", "validation", "test", "compositions"]
_SPLITS: tuple[Split, ...] = ("train", "validation", "test", "compositions")


@dataclass(frozen=True, slots=True)
class Sample:
    """One drawn scene with all that is known about it.

    Attributes:
        scene: what is seen.
        image: its pixels and masks.
        captions: true of it.
        label: shape of the first thing, the class.
        aligned: with a planted bias, whether the class has its partner value; None without one.
        negative: a near miss, where one was asked for and the scene offers one.
        negative_image: the near miss rendered.
    """

    scene: Scene
    image: RenderedScene
    captions: tuple[str, ...]
    label: str
    aligned: bool | None = None
    negative: Negative | None = None
    negative_image: RenderedScene | None = None


class ScenesSet(IndexedSource):
    """Scenes drawn on the fly; row i of a split is the same whatever is read before it.

    ``train``, ``validation`` and ``test`` draw from the same world with different generators and never show a pair of
    colour and shape of ``world.HELD_OUT_PAIRS``; every scene of ``compositions`` shows at least one.

    Args:
        split: ``train``, ``validation``, ``test`` or ``compositions``.
        rows: how many scenes.
        size: side of the images in pixels, 64 to 224.
        seed: another seed is another set of the same kind.
        things: least and greatest number of things in a scene, within 1 to 8; short captions name four of them.
        captions: ``short``, ``long`` or ``both`` (short first).
        templates: ``seen`` draws the family of each short caption from ``TEMPLATES``, ``held_out`` from
            ``HELD_OUT_TEMPLATES``, ``plain`` uses the bare list of things.
        order: in which captions name the things: ``size``, ``random``, ``reading`` or ``given``.
        ordered: probability that a caption keeps that order; the others name the things at random.
        details: attributes that short captions say of each thing besides its shape.
        lettering: ``none``, ``word``, ``number`` or ``watermark``.
        agree: probability that the lettering is true of the scene.
        defects: probability of a planted defect.
        bias: ``none``, ``colour``, ``texture`` or ``background``: what goes with the class.
        strength: of the bias, 0 to 1.
        negatives: ``none``, ``attribute``, ``relation`` or ``object``: a near miss in each row's ``meta``.
        sizes: words of ``world.DIAMETERS``; with ``huge`` a thing may take about half of the side.
        counted: a shape, and the least and greatest number of things of it in a scene, such as ``[star, 2, 3]``.
        ground: ``plain``, or ``relief``: ``meta`` also has ``depth``, ``normals`` and ``classes``, see ``Relief``.
    """

    name = "scenes"
    block_rows = 512

    @checked
    def __init__(
        self,
        *,
        split: Split = "train",
        rows: Annotated[int, Ge(1), Le(2**40)] = 10_000,
        size: Side = 64,
        seed: Whole = 0,
        things: tuple[int, int] = (1, 4),
        captions: Literal["short", "long", "both"] = "short",
        templates: Literal["plain", "seen", "held_out"] = "seen",
        order: Order = "size",
        ordered: Share = 1.0,
        details: tuple[Attribute, ...] = ("colour",),
        lettering: Literal["none", "word", "number", "watermark"] = "none",
        agree: Share = 1.0,
        defects: Share = 0.0,
        bias: Literal["none"] | BiasKind = "none",
        strength: Share = 0.0,
        negatives: Literal["none", "attribute", "relation", "object"] = "none",
        sizes: tuple[str, ...] = tuple(SIZES),
        counted: tuple[str, int, int] | None = None,
        ground: Literal["plain", "relief"] = "plain",
    ) -> None:
        """Check the settings; nothing is drawn yet."""
        if bias != "none" and split == "compositions":
            raise InputError("scenes: bias: the split 'compositions' chooses its pairs itself and takes no bias")
        self.world = World(
            things=tuple(things),
            sizes=tuple(sizes),
            pairs="held_out" if split == "compositions" else "seen",
            counted=None if counted is None else tuple(counted),
        )
        # Near misses of held-out pairs may show held-out pairs; those of the others never do.
        self._near = World(sizes=self.world.sizes, pairs="all" if split == "compositions" else "seen")
        self.split, self.rows, self.size, self.seed = split, rows, size, seed
        self._captions, self._order, self._details = captions, order, tuple(details)
        self._ordered = ordered
        self._templates = {"plain": ("plain",), "seen": tuple(TEMPLATES), "held_out": tuple(HELD_OUT_TEMPLATES)}[
            templates
        ]
        self._lettering, self._agree, self._defects = lettering, agree, defects
        self._bias: BiasKind | None = None if bias == "none" else bias
        self._strength, self._negatives, self._ground = strength, negatives, ground
        self.version = str(WORLD_VERSION)

    def __len__(self) -> int:
        """Number of scenes."""
        return self.rows

    def sample(self, index: int) -> Sample:
        """Scene ``index`` with its image, captions and near miss."""
        if not 0 <= index < self.rows:
            raise InputError(f"scenes: row {index} asked of {self.rows}")
        return self.draw(np.random.default_rng([self.seed, _SPLITS.index(self.split), index]))

    def draw(self, rng: np.random.Generator) -> Sample:
        """One more scene of this kind from a generator of your own."""
        dice = Dice(rng)
        aligned = None
        if self._bias is None:
            scene = self.world.draw(dice)
        else:
            biased = draw_biased(self.world, dice, kind=self._bias, strength=self._strength)
            scene, aligned = biased.scene, biased.aligned
        captions = self._caption(scene, dice)
        negative = self._near_miss(scene, dice) if self._negatives != "none" else None
        # What lies over the things is the same in both images: only the near miss tells them apart.
        if self._lettering != "none":
            agrees = dice.chance(self._agree)
            scene = replace(scene, lettering=draw_lettering(scene, dice, kind=self._lettering, agrees=agrees))
        if self._defects and dice.chance(self._defects):
            scene = replace(scene, defects=(draw_defect(scene, dice),))
        if negative is not None:
            other = replace(negative.other, lettering=scene.lettering, defects=scene.defects)
            negative = replace(negative, scene=scene, other=other)
        return Sample(
            scene,
            render(scene, size=self.size),
            captions,
            scene.things[0].shape,
            aligned,
            negative,
            None if negative is None else render(negative.other, size=self.size),
        )

    def row(self, index: int) -> Row:
        """Scene ``index`` as a row; ``meta`` holds the ground truth as plain values, and the label map."""
        sample = self.sample(index)
        scene, image = sample.scene, sample.image
        meta: dict[str, object] = {
            "label": sample.label,
            "things": [asdict(thing) for thing in scene.things],
            "boxes": image.boxes.tolist(),
            "phrases": [noun(thing, details=self._details) for thing in scene.things],
            "labels": image.labels,
            "background": scene.background,
        }
        if self._ground == "relief":
            shaped = relief(scene, image)
            meta |= {"depth": shaped.depth, "normals": shaped.normals, "classes": shaped.classes}
        if scene.lettering is not None:
            meta |= {"lettering": scene.lettering.text, "agrees": scene.lettering.agrees, "text_mask": image.text}
        if self._defects:
            empty = np.zeros(image.labels.shape, dtype=bool)
            meta["flaw_mask"] = empty if image.flaw is None else image.flaw
        if sample.aligned is not None:
            meta["aligned"] = sample.aligned
        if self._negatives != "none":
            found, other = sample.negative, sample.negative_image
            meta["text"] = None if found is None else found.text
            meta["negative_text"] = None if found is None else found.other_text
            meta["negative_image"] = None if other is None else other.pixels
        return Row(f"{self.split}/{self.seed}/{index:08d}", image.pixels, sample.captions, meta)

    def _caption(self, scene: Scene, dice: Dice) -> tuple[str, ...]:
        found = []
        if self._captions != "long":
            template = dice.pick(self._templates)
            order = self._kept_order(dice)
            found.append(short(scene, template=template, order=order, details=self._details, dice=dice))
        if self._captions != "short":
            found.append(long(scene, order=self._kept_order(dice), dice=dice))
        return tuple(found)

    def _kept_order(self, dice: Dice) -> Order:
        """The order asked for, or a random one as often as it is not kept; a certain order costs no draw."""
        return self._order if self._ordered == 1 or dice.chance(self._ordered) else "random"

    def _near_miss(self, scene: Scene, dice: Dice) -> Negative | None:
        if self._negatives == "relation":
            return swap_relation(scene, dice, world=self._near)
        if self._negatives == "object":
            return replace_thing(scene, dice, world=self._near)
        return swap_attribute(scene, dice, world=self._near)
