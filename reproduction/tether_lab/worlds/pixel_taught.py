"""A small CLIP of shapes goes on with captions and with what imperfect experts say of each pixel; what patches know."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.core.recipes import find
from tether.core.types import Batch, ImageSpec, Row
from tether.data.blocks import IndexedSource
from tether.data.contents import BatchContents
from tether.data.images import load
from tether.data.loader import Loader
from tether.data.sets.scenes import Dice, Relief, Scene, relief, render, short
from tether.data.sets.scenes.world import SHAPES as ALL_SHAPES
from tether.losses import ClipLoss
from tether.methods.cliptex.dense_probe import DenseScores, dense_probe
from tether.models import create
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.clip import Clip
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether.training import load_config
from tether.training.steps import ComposedStep
from tether.workflows.label import label
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes, in_memory
from tether_lab.worlds.drawn_shapes import BATCH, COLOURS, DRAWN, PATCH, SHAPES, SIDE, shape_world
from tether_lab.worlds.with_heads import fit_with_heads

CLASSES = 1 + len(ALL_SHAPES)
LABEL, CONTEXT = 24, 24
"""Pixels that labels have a side; tokens of a text."""
BASE_SCENES, CLOSE_UPS, BASE_STEPS, BASE_RATE = 4_000, 4_000, 600, 5e-3
"""Of the CLIP's training: captioned scenes of one or two things, single things that fill the image, and steps."""
PAIRS, PROBE, SINGLE = 2_000, 200, 500
NOISE = 0.15
"""Of the things, how many an expert takes for another; and of the pixels, how many have another pixel's label."""
HEAD_WIDTH = 64
Known = Literal["nothing", "true", "told"]
Told = Literal["experts", "shuffled"]
DenseTask = Literal["seg", "depth", "normal"]
TASKS: tuple[DenseTask, ...] = ("seg", "depth", "normal")
THINGS = (1, 3)


class ReliefScenes(IndexedSource):
    """Scenes of large things with captions, what there is at each pixel, and what imperfect experts say of it.

    Attributes:
        drawn: the scenes.
        rows: with columns ``classes``, ``depth`` and ``normals``: what is true, or what the experts say.
    """

    def __init__(self, lab: Lab, name: str, *, count: int, things: tuple[int, int], known: Known = "nothing") -> None:
        """Draw them by the lab's seed and a name; what is known of their pixels are columns of the rows."""
        world = shape_world(things)
        dice = in_memory.dice_of(lab, name, salt="relief")
        rng = np.random.default_rng(dice.below(2**31))
        self.name, self.version = f"scenes {name}", str(lab.seed)
        self.drawn = [world.draw(dice) for _ in range(count)]
        self.rows = [_row(f"{name}/{place}", scene, dice, rng, known=known) for place, scene in enumerate(self.drawn)]

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


@dataclass(frozen=True, slots=True)
class PixelBench:
    """What all arms of a seed share.

    Attributes:
        start: the CLIP that all go on from.
        train: rows to go on with as one batch of a loader, with what the experts said.
        probe: scenes that the linear probe is fitted on, and others that it is measured on.
        labels: folder of the true labels of ``probe``.
        single: images of one thing.
        shapes: of ``single``.
    """

    start: Clip
    train: Batch
    probe: tuple[ReliefScenes, ReliefScenes]
    labels: tuple[Path, Path]
    single: UInt8[Tensor, "n 3 h w"]
    shapes: Sequence[str]


def prepare_pixels(lab: Lab, folder: Path) -> PixelBench:
    """Draw all scenes of a seed, ask the experts, teach the CLIP."""
    train = ReliefScenes(lab, "train", count=lab.steps(PAIRS, 64), things=THINGS, known="told")
    count = lab.steps(PROBE, 16)
    probe = [ReliefScenes(lab, name, count=count, things=THINGS, known="true") for name in ("fit", "test")]
    single = ReliefScenes(lab, "single", count=lab.steps(SINGLE, 32), things=(1, 1))
    for source in (train, *probe):
        label(
            source,
            out=folder / source.name,
            seg="column:classes",
            depth="column:depth",
            normal="column:normals",
            classes=CLASSES,
        )
    pixels = [row.image for row in single.rows if row.image is not None]
    return PixelBench(
        start=_start(lab),
        train=_whole(train, labels=folder / train.name),
        probe=(probe[0], probe[1]),
        labels=(folder / probe[0].name, folder / probe[1].name),
        single=torch.stack([load(one, ImageSpec((SIDE, SIDE))) for one in pixels]),
        shapes=[scene.things[0].shape for scene in single.drawn],
    )


def gone_on(
    lab: Lab,
    bed: PixelBench,
    tasks: Sequence[DenseTask] = (),
    *,
    rate: float,
    steps: int,
    weight: float = 0.1,
    told: Told = "experts",
) -> Clip:
    """A copy of the start after further steps, the same batches in the same order for all.

    Args:
        lab: seed and budget.
        bed: of the seed.
        tasks: what is told of pixels beside CLIP's loss; none is CLIP's loss alone.
        rate: learning rate, falling to 0 as a cosine after a warm-up.
        steps: of the optimiser.
        weight: of each task.
        told: what the experts said of the image, or of another one.
    """
    steps = lab.steps(steps)
    step = _step(dict.fromkeys(tasks, weight), steps=steps, seed=lab.seed)
    train = bed.train
    if told == "shuffled":
        order = torch.randperm(len(train.image), generator=lab.generator("shuffled"))
        moved = {f"image_{task}": cast(Tensor, train.extra[f"image_{task}"])[order] for task in TASKS}
        train = Batch(train.image, train.text, {**train.extra, **moved})
    return _go_on(lab, copy.deepcopy(bed.start), train, step, rate=rate, steps=steps)


def probed(model: Clip, bed: PixelBench) -> dict[str, float]:
    """What a linear map reads from frozen patches, and the shapes of single things by words, in percent and degrees."""
    found: DenseScores = dense_probe(
        model, train=bed.probe[0], test=bed.probe[1], labels=bed.labels[0], test_labels=bed.labels[1]
    )
    templates = [f"a {colour} {{}}" if colour[0] not in "aeiou" else f"an {colour} {{}}" for colour in COLOURS]
    head = ZeroShotClassifier(templates=templates).prepare(model, SHAPES)
    said = torch.cat([head.predict(part).order(top=1)[:, 0] for part in bed.single.split(256)])
    right = (said == torch.tensor([SHAPES.index(shape) for shape in bed.shapes])).double().mean()
    assert found.miou is not None  # all tasks have labels
    return {
        "miou": 100 * found.miou,
        "depth": 100 * cast(float, found.depth_error),
        "normal": cast(float, found.normal_degrees),
        "top1": 100 * float(right),
    }


def _start(lab: Lab) -> Clip:
    """A CLIP that has read captions of scenes and of close-ups of single things."""
    scenes = drawn_shapes.drawn_scenes(lab, "base", count=lab.steps(BASE_SCENES, 64), world=shape_world((1, 2)))
    near = drawn_shapes.drawn_scenes(lab, "close-ups", count=lab.steps(CLOSE_UPS, 32), world=shape_world((1, 1)))
    pixels = torch.cat([drawn_shapes.pixels_of(scenes), drawn_shapes.close_ups(near, lab=lab)])
    texts, steps = scenes.texts + near.texts, lab.steps(BASE_STEPS)
    model = create("tiny", seed=lab.seed, image_size=SIDE, patch=PATCH, context=CONTEXT)
    rows = Batch(pixels, model.tokenizer(texts), {"texts": texts})
    return _go_on(lab, model, rows, _step({}, steps=steps, seed=lab.seed), rate=BASE_RATE, steps=steps)


def _step(weights: Mapping[DenseTask, float], *, steps: int, seed: int) -> ComposedStep:
    """The recipe's step with the heads of some tasks; with none, its objective alone."""
    clip = ClipLoss(duplicates="positives")
    if not weights:
        return ComposedStep(clip, steps=steps, seed=seed)
    said = cast(dict[str, Any], load_config(find("pseudo-labels")).step)
    heads: dict[str, Any] = {task: {"name": "dense", "task": task, "width": HEAD_WIDTH} for task in weights}
    if "seg" in heads:
        heads["seg"]["classes"] = CLASSES
    term = {"name": "pseudo_labels", **{task: task for task in weights}}
    term |= {f"{task}_weight": weight for task, weight in weights.items()}
    return ComposedStep(clip, steps=steps, seed=seed, views=said["views"], terms=["objective", term], heads=heads)


def _go_on(lab: Lab, model: Clip, rows: Batch, step: ComposedStep, *, rate: float, steps: int) -> Clip:
    model.prune_vocabulary_(model.tokenizer(cast(list[str], rows.extra["texts"])))
    torch.set_flush_denormal(True)  # heads grow so sure that a step costs three times as much without
    try:
        after = fit_with_heads(
            model,
            step,
            lambda some: _some(rows, some),
            rows=len(rows.image),
            batch_size=BATCH,
            steps=steps,
            rate=rate,
            seed=lab.seed,
            generator=lab.generator("batches"),
        )
    finally:
        torch.set_flush_denormal(False)
    return cast(Clip, after)


def _row(key: str, scene: Scene, dice: Dice, rng: np.random.Generator, *, known: Known) -> Row:
    image, said = render(scene, size=DRAWN), short(scene, order="random", dice=dice)
    if known == "nothing":
        return Row(key, image.pixels, (said,))
    true = relief(scene, image)
    labels = {"classes": true.classes, "depth": true.depth, "normals": true.normals}
    return Row(key, image.pixels, (said,), labels if known == "true" else _told(scene, true, rng))


def _told(scene: Scene, true: Relief, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What imperfect experts say: some things are of another shape and flat, and some pixels have another's label."""
    classes, depth, normals = true.classes.copy(), true.depth.copy(), true.normals.copy()
    for thing in scene.things:
        own = 1 + ALL_SHAPES.index(thing.shape)
        inside = true.classes == own
        if rng.random() < NOISE:
            others = [1 + ALL_SHAPES.index(shape) for shape in SHAPES if shape != thing.shape]
            classes[inside] = rng.choice(others)
        if rng.random() < NOISE:
            depth[inside], normals[inside] = 1.0, (0.0, 0.0, 1.0)
    wrong = np.flatnonzero(rng.random(classes.size) < NOISE)
    other = rng.integers(0, classes.size, len(wrong))
    for values in (classes, depth):
        values.flat[wrong] = values.flat[other]
    flat = normals.reshape(-1, 3)
    flat[wrong] = flat[other]
    return {"classes": classes, "depth": depth, "normals": normals}


def _whole(source: ReliefScenes, *, labels: Path) -> Batch:
    """All rows as a run's loader gives them, as one batch."""
    told = BatchContents(labels={"store": str(labels), "size": LABEL})
    spec, tokenizer = ImageSpec((SIDE, SIDE)), ClipTokenizer(CONTEXT)
    return next(Loader(source, batch_size=len(source), image_spec=spec, tokenizer=tokenizer, seed=0, contents=told))


def _some(whole: Batch, rows: Int[Tensor, " b"]) -> Batch:
    extra = {name: one[rows] if isinstance(one, Tensor) else one for name, one in whole.extra.items()}
    return Batch(whole.image[rows], whole.text[rows], {name: extra[name] for name in extra.keys() - {"keys", "texts"}})
