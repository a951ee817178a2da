"""A small CLIP of one or two things learns scenes of three from pairs with boxes: what it finds then, and forgets."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from tether.adaptation.recipes.moving import move_
from tether.adaptation.recipes.tuning import Tuning, play
from tether.core.types import Batch, ImageSpec, Row
from tether.data.blocks import IndexedSource
from tether.data.regions import RegionColumns
from tether.data.sets.scenes import render, short
from tether.data.sets.scenes.captions import with_article
from tether.evaluate.retrieval import recall_at_k
from tether.methods.dclip import DclipStep, RegionPairs, RegionTargets, fit_region_teacher, region_pairs, region_targets
from tether.methods.dclip.cross_modal import CrossModalTeacher
from tether.methods.dclip.region_crops import RegionCropper
from tether.models.towers.clip import Clip
from tether.training.tensor_batches import ReplayedBatches
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "orange", "green", "blue", "purple", "pink")
DRAWN, SIDE = 64, 32
"""Pixels that a scene is drawn with, of which regions are cut, and those that the CLIP sees."""
BASE_PAIRS, BASE_STEPS, BASE_THINGS = 8_000, 1_000, (1, 2)
PAIRS, THINGS = 2_000, 3
POOL, SINGLE = 500, 1_000
BATCH = 64
TEACHER_STEPS, TEACHER_RATE, DECAY = 300, 1e-3, 0.01

Seen = Literal["captions", "regions", "start"]
"""Whose rows the images are held to: those of the teacher that reads captions, those of its control, which sees regions
alone, or those that the CLIP itself gave before."""


class BoxedScenes(IndexedSource):
    """Scenes of large things, with a box for each thing, and their captions; a ``core.protocols.Source`` in memory.

    Attributes:
        rows: (64, 64) pixels, a caption, and boxes in pixels.
        first: (colour, shape) of the first thing of each.
        pixels: (n, 3, 32, 32) as the CLIP sees them.
    """

    def __init__(
        self, lab: Lab, name: str, *, count: int, things: tuple[int, int], repeats: Literal["drawn", "none"] = "drawn"
    ) -> None:
        """Draw them by the lab's seed and a name; without repeats no two show the same things."""
        world = in_memory.plain_world(
            things=things,
            shapes=SHAPES,
            colours=COLOURS,
            sizes=("large",),
            backgrounds=("paper", "snow", "stone", "wood"),
        )
        dice = in_memory.dice_of(lab, name, salt="regions")
        self.name, self.version, self.rows, self.first = f"scenes {name}", str(lab.seed), list[Row](), []
        shown = set[frozenset[tuple[str, str]]]()
        while len(self.rows) < count:
            scene = world.draw(dice)
            what = frozenset((thing.colour, thing.shape) for thing in scene.things)
            if repeats == "none" and what in shown:
                continue
            shown.add(what)
            image, said = render(scene, size=DRAWN), short(scene, order="random", dice=dice)
            self.rows.append(Row(f"{name}/{len(self.rows)}", image.pixels, (said,), {"boxes": image.boxes.tolist()}))
            self.first.append((scene.things[0].colour, scene.things[0].shape))
        whole = RegionCropper(None, spec=ImageSpec((SIDE, SIDE)))
        self.pixels: UInt8[Tensor, "n 3 h w"] = torch.cat([whole(row) for row in self.rows])

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]

    @property
    def texts(self) -> list[str]:
        """A caption of each."""
        return [row.texts[0] for row in self.rows]


@dataclass(frozen=True, slots=True)
class RegionFigures:
    """What a model does, in percent.

    Attributes:
        recall: at 1, scenes by their captions.
        back: at 1, captions by their scenes.
        shapes: single things whose shape is named right.
        colours: the same of the colour.
    """

    recall: float
    back: float
    shapes: float
    colours: float

    @property
    def named(self) -> float:
        """Mean of shapes and colours."""
        return (self.shapes + self.colours) / 2


@dataclass(frozen=True, slots=True)
class RegionBench:
    """What all arms of a seed share.

    Attributes:
        start: the CLIP that all begin as.
        train: scenes to learn from.
        pool: held-out ones to choose among.
        single: held-out single things.
        pairs: regions and captions of ``train``, as ``start`` embeds them.
        held_out: the same of ``pool``.
        teachers: by what they see.
        targets: rows that images are held to.
    """

    start: Clip
    train: BoxedScenes
    pool: BoxedScenes
    single: BoxedScenes
    pairs: RegionPairs
    held_out: RegionPairs
    teachers: Mapping[Seen, CrossModalTeacher]
    targets: Mapping[Seen, RegionTargets]


def prepare(lab: Lab) -> RegionBench:
    """Teach the CLIP, embed regions, fit both teachers and ask them."""
    taught = BoxedScenes(lab, "start", count=lab.steps(BASE_PAIRS, 64), things=BASE_THINGS)
    start = in_memory.taught(lab, taught.pixels, taught.texts, steps=lab.steps(BASE_STEPS))
    train = BoxedScenes(lab, "train", count=lab.steps(PAIRS, 64), things=(THINGS, THINGS))
    pool = BoxedScenes(lab, "pool", count=lab.steps(POOL, 32), things=(THINGS, THINGS), repeats="none")
    single = BoxedScenes(lab, "single", count=lab.steps(SINGLE, 32), things=(1, 1))
    columns = RegionColumns(most=THINGS, unit="pixel")
    pairs, held_out = (region_pairs(start, part, columns=columns) for part in (train, pool))
    teachers: dict[Seen, CrossModalTeacher] = {}
    for seen, looks_at in (("captions", "other"), ("regions", "own")):
        teachers[seen], _ = fit_region_teacher(
            start,
            pairs,
            steps=lab.steps(TEACHER_STEPS),
            batch_size=BATCH,
            looks_at=looks_at,
            learning_rate=TEACHER_RATE,
            weight_decay=DECAY,
            generator=lab.generator("teacher"),
        )
    targets = {seen: region_targets(start, teacher, pairs) for seen, teacher in teachers.items()}
    place, text = targets["captions"].place, targets["captions"].text
    own = RegionTargets(place, text, F.normalize(pairs.regions[pairs.owner, 0], dim=1))
    return RegionBench(start, train, pool, single, pairs, held_out, teachers, {**targets, "start": own})


def tuned(lab: Lab, bed: RegionBench, seen: Seen, *, alpha: float, rate: float, steps: int) -> Clip:
    """A copy of the start whose image tower learnt; the same batches in the same order for all.

    Args:
        lab: seed and budget.
        bed: of the seed.
        seen: whose rows the images are held to.
        alpha: share of CLIP's loss.
        rate: learning rate, falling to 0 as a cosine.
        steps: of the optimiser.
    """
    model, train = copy.deepcopy(bed.start), bed.train
    move_(model, "image")
    texts = train.texts
    ids = model.tokenizer(texts)

    def batches() -> Iterator[Batch]:
        for rows in in_memory.draws(len(texts), size=BATCH, generator=lab.generator("batches")):
            whose = {"keys": [train.rows[row].key for row in rows], "texts": [texts[row] for row in rows]}
            yield Batch(train.pixels[rows], ids[rows], whose)

    tuning = Tuning(
        step=DclipStep(bed.targets[seen], alpha=alpha),
        batches=ReplayedBatches(batches),
        steps=lab.steps(steps),
        optimizer={"name": "adamw", "lr": rate},
        weight_decay=DECAY,
    )
    play(tuning, model, seed=lab.seed)
    return model.eval()


def halfway(bed: RegionBench, end: Clip) -> Clip:
    """Every weight the mean of the start's and those of a tuned one."""
    model = copy.deepcopy(bed.start)
    with torch.no_grad():
        for weight, other in zip(model.parameters(), end.parameters(), strict=True):
            weight.lerp_(other, 0.5)
    return model


def measure(model: Clip, bed: RegionBench) -> RegionFigures:
    """What a model finds among the held-out scenes, and how it names single things."""
    recall = recall_at_k(*in_memory.unit_pairs(model, bed.pool.pixels, bed.pool.texts), k=(1,))
    images = in_memory.unit_images(model, bed.single.pixels)
    named = {}
    for place, names in enumerate((COLOURS, SHAPES)):
        rows = torch.stack([_class_text(model, name) for name in names])
        labels = torch.tensor([names.index(thing[place]) for thing in bed.single.first])
        named[place] = in_memory.percent((images @ rows.T).argmax(dim=1) == labels)
    return RegionFigures(100 * recall["text_to_image_r1"], 100 * recall["image_to_text_r1"], named[1], named[0])


def _class_text(model: Clip, name: str) -> Tensor:
    """Mean of the unit rows of all that is called so, such as every red thing."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES if name in (colour, shape)]
    texts = [with_article(" ".join(thing)) for thing in things]
    return F.normalize(in_memory.unit_texts(model, texts).mean(dim=0), dim=0)


def teacher_recall(bed: RegionBench, seen: Seen) -> dict[str, float]:
    """What captions find among a teacher's rows of the held-out images, and whom those rows follow, in percent.

    ``recall`` is with each image's own caption read, which a search cannot do; ``misled`` is how often an image's row
    is nearer to another image's caption than to its own when it has read that one.
    """
    text = in_memory.unit_texts(bed.start, bed.held_out.texts)
    own = region_targets(bed.start, bed.teachers[seen], bed.held_out).image
    turned = RegionPairs(
        bed.held_out.keys,
        bed.held_out.regions,
        bed.held_out.mask,
        [*bed.held_out.texts[1:], bed.held_out.texts[0]],
        bed.held_out.owner,
    )
    other = region_targets(bed.start, bed.teachers[seen], turned).image
    misled = (other * text.roll(-1, dims=0)).sum(dim=1) > (other * text).sum(dim=1)
    return {
        "recall": 100 * recall_at_k(own, text, k=(1,))["text_to_image_r1"],
        "misled": in_memory.percent(misled),
    }
