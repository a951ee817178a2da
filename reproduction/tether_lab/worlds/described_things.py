"""A small CLIP learns scenes from captions, or from boxes and descriptions of their things as well; who wears what?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.core.recipes import find
from tether.core.types import Batch, ImageSpec, Regions, Row
from tether.data.blocks import IndexedSource
from tether.data.contents import BatchContents
from tether.data.images import load
from tether.data.loader import Loader
from tether.data.sets.scenes import Dice, Scene, World, render, swap_attribute
from tether.data.sets.scenes.captions import in_order, listed, with_article
from tether.losses import ClipLoss
from tether.losses.boxes import corners, hungarian_match, overlap
from tether.methods.grain.classifier import with_description, zero_shot_with_descriptions
from tether.methods.medical_survey import LocalAlignmentLoss
from tether.models import create
from tether.models.composed.encoder import ComposedEncoder
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.heads.grounded import ground
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.clip import Clip
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether.training import load_config
from tether.training.steps import ComposedStep
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory
from tether_lab.worlds.with_heads import fit_with_heads

SHAPES = ("circle", "star", "heart", "cross", "moon", "ring")
COLOURS = ("red", "orange", "green", "blue", "purple", "pink")
SIZES = ("medium", "large")
BACKGROUNDS = ("paper",)
DRAWN, SIDE, CONTEXT, MOST = 64, 32, 32, 2
"""Pixels that a scene is drawn with and that the model sees, tokens of a text, things of a scene."""
SCENES, TWINS, SINGLE, BOXED = 4_000, 500, 500, 300
BATCH = 64
TEMPLATE = ("a {}",)
DECODER = {"layers": 2, "width": 64, "heads": 4, "inner": 256}
"""Of the recipe's decoder, whose width suits its own size of model."""

Pairs = Literal["seen", "held_out"]
Arm = Literal["clip", "local", "decoder", "boxes", "descriptions", "grounded"]
"""CLIP's loss alone; with local alignment of words and patches beside it; behind the decoder with CLIP's loss alone,
with boxes alone or descriptions alone; with both, as the recipe has it."""
WEIGHTS: dict[Arm, list[float]] = {
    "decoder": [1.0, 0.0, 0.0, 0.0],
    "boxes": [1.0, 1.0, 1.0, 0.0],
    "descriptions": [1.0, 0.0, 0.0, 1.0],
    "grounded": [1.0, 1.0, 1.0, 1.0],
}


class DescribedScenes(IndexedSource):
    """Scenes with a caption of all things, and of each thing a box and a description; rows in memory.

    Captions name the things as "a red star" or say of them what descriptions say, "a red star, which is large", by
    halves.

    Attributes:
        drawn: the scenes.
        rows: their pixels, captions, boxes and phrases.
    """

    def __init__(self, lab: Lab, name: str, *, count: int, things: tuple[int, int], pairs: Pairs = "seen") -> None:
        """Draw them by the lab's seed and a name."""
        world, dice = world_of(things, pairs=pairs), in_memory.dice_of(lab, name, salt="described")
        self.name, self.version = f"scenes {name}", str(lab.seed)
        self.drawn = [world.draw(dice) for _ in range(count)]
        self.rows = [_row(f"{name}/{place}", scene, dice) for place, scene in enumerate(self.drawn)]

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        return self.rows[index]


@dataclass(frozen=True, slots=True)
class DescribedBench:
    """What all arms of a seed share.

    Attributes:
        train: all rows to learn from, as one batch of a loader.
        boxed: held-out scenes with their boxes, likewise.
        twins: (2n, 3, h, w) images; row i of the second half is row i of the first with two colours exchanged.
        twin_texts: their captions, 2n.
        single: images of one thing, of a colour and shape that training never shows together.
        classes: (colour, shape) of each of ``single``.
    """

    train: Batch
    boxed: Batch
    twins: UInt8[Tensor, "n2 3 h w"]
    twin_texts: Sequence[str]
    single: UInt8[Tensor, "m 3 h w"]
    classes: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class DescribedFigures:
    """What a model does, in percent but for the IoU.

    Attributes:
        binding: twins that prefer their own caption to the one with swapped colours; chance 50.
        unseen: single things named right among all 36 by descriptions.
        unseen_plain: the same by plain names.
        recall: at 1 among the twins, mean of both directions.
        iou: mean IoU of true boxes and those matched with them; 0 without a decoder.
        iou_turned: the same with another image's boxes.
    """

    binding: float
    unseen: float
    unseen_plain: float
    recall: float
    iou: float = 0.0
    iou_turned: float = 0.0


def world_of(things: tuple[int, int], *, pairs: Pairs = "seen") -> World:
    """Scenes of this bed."""
    return World(
        things=things,
        shapes=SHAPES,
        colours=COLOURS,
        sizes=SIZES,
        textures=("plain",),
        backgrounds=BACKGROUNDS,
        broken=0.0,
        pairs=pairs,
    )


def said_of(colour: str, shape: str, size: str) -> str:
    """What is said of a thing."""
    return with_description(with_article(f"{colour} {shape}"), description=f"is {size}")


def prepare_described(lab: Lab) -> DescribedBench:
    """Draw all scenes of a seed."""
    train = DescribedScenes(lab, "train", count=lab.steps(SCENES, 64), things=(1, MOST))
    boxed = DescribedScenes(lab, "boxed", count=lab.steps(BOXED, 32), things=(1, MOST))
    single = DescribedScenes(lab, "single", count=lab.steps(SINGLE, 32), things=(1, 1), pairs="held_out")
    world, dice = world_of((2, 2)), in_memory.dice_of(lab, "twins", salt="described")
    found = []
    while len(found) < lab.steps(TWINS, 32):
        twin = swap_attribute(world.draw(dice), dice, world=world)
        if twin is not None:
            found.append(twin)
    return DescribedBench(
        train=_whole(train),
        boxed=_whole(boxed),
        twins=_seen([*(one.scene for one in found), *(one.other for one in found)]),
        twin_texts=[*(one.text for one in found), *(one.other_text for one in found)],
        single=_seen(single.drawn),
        classes=[(scene.things[0].colour, scene.things[0].shape) for scene in single.drawn],
    )


def step_of(arm: Arm, *, steps: int, seed: int) -> ComposedStep:
    """The step of an arm; those with a decoder are the recipe's, but for the decoder's size and the weights."""
    clip = ClipLoss(duplicates="positives")
    if arm == "clip":
        return ComposedStep(clip, steps=steps, seed=seed)
    if arm == "local":
        views: dict[str, dict[str, Any]] = {"image": {"want": "tokens"}, "text": {"want": "tokens"}}
        return ComposedStep(LocalAlignmentLoss(inner=clip), steps=steps, seed=seed, views=views)
    said = cast(dict[str, Any], load_config(find("grounded")).step)
    terms: list[Any] = [{**said["terms"][0], "weights": WEIGHTS[arm]}]
    heads: dict[str, Any] = {"grounding": {**said["heads"]["grounding"], **DECODER}}
    return ComposedStep(clip, steps=steps, seed=seed, views=said["views"], terms=terms, heads=heads)


def learn(lab: Lab, bed: DescribedBench, arm: Arm, *, rate: float, steps: int) -> Clip | WrappedEncoder:
    """A tiny CLIP after so many batches, the same in the same order for all arms; with its decoder, if it has one.

    Args:
        lab: seed and budget.
        bed: of the seed.
        arm: what is learnt from.
        rate: learning rate, falling to 0 as a cosine after a warm-up.
        steps: of the optimiser.
    """
    model = create("tiny", seed=lab.seed, image_size=SIDE, context=CONTEXT)
    every = [said_of(colour, shape, size) for colour in COLOURS for shape in SHAPES for size in SIZES]
    model.prune_vocabulary_(model.tokenizer([*cast(list[str], bed.train.extra["texts"]), *every]))
    steps = lab.steps(steps)
    step = step_of(arm, steps=steps, seed=lab.seed)
    return fit_with_heads(
        model,
        step,
        lambda rows: _some(bed.train, rows),
        rows=len(bed.train.image),
        batch_size=BATCH,
        steps=steps,
        rate=rate,
        seed=lab.seed,
        generator=lab.generator("batches"),
    )


def figures_of(model: Clip | WrappedEncoder, bed: DescribedBench) -> DescribedFigures:
    """All questions."""
    image = in_memory.unit_images(model, bed.twins)
    text = in_memory.unit_texts(model, bed.twin_texts)
    other = text.roll(len(text) // 2, dims=0)
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    described = zero_shot_with_descriptions(
        model, {name: [f"is {size}" for size in SIZES] for name in names}, templates=TEMPLATE
    )
    plain = ZeroShotClassifier(templates=TEMPLATE).prepare(model, names)
    labels = torch.tensor([names.index(f"{colour} {shape}") for colour, shape in bed.classes])
    iou, turned = _ious(model, bed.boxed) if isinstance(model, ComposedEncoder) else (0.0, 0.0)
    return DescribedFigures(
        binding=100 * float(((image * text).sum(dim=1) > (image * other).sum(dim=1)).double().mean()),
        unseen=_right(described, bed.single, labels),
        unseen_plain=_right(plain, bed.single, labels),
        recall=100 * in_memory.mean_recall(image, text),
        iou=iou,
        iou_turned=turned,
    )


@torch.no_grad()
def _ious(model: ComposedEncoder, boxed: Batch) -> tuple[float, float]:
    """Mean IoU of true boxes with the image's own predictions, and with those of the image before."""
    regions = cast(Regions, boxed.extra["regions"])
    found = torch.cat([ground(model, part).boxes for part in boxed.image.split(256)])
    means = []
    for boxes in (found, found.roll(1, dims=0)):
        match = hungarian_match(boxes, regions.boxes, valid=regions.valid)
        image, query = (match >= 0).nonzero(as_tuple=True)
        iou, _ = overlap(corners(boxes)[image, query], regions.boxes[image, match[image, query]])
        means.append(float(iou.sum() / regions.valid.sum()))
    return means[0], means[1]


def _right(head: ZeroShotClassifier, images: Tensor, labels: Tensor) -> float:
    said = torch.cat([head.predict(part).order(top=1)[:, 0] for part in images.split(256)])
    return 100 * float((said == labels).double().mean())


def _row(key: str, scene: Scene, dice: Dice) -> Row:
    image = render(scene, size=DRAWN)
    phrases = [said_of(thing.colour, thing.shape, thing.size) for thing in scene.things]
    names = phrases if dice.chance(0.5) else [with_article(f"{one.colour} {one.shape}") for one in scene.things]
    caption = listed([names[place] for place in in_order(scene, order="random", dice=dice)])
    return Row(key, image.pixels, (caption,), {"boxes": image.boxes.tolist(), "phrases": phrases})


def _seen(scenes: Sequence[Scene]) -> UInt8[Tensor, "n 3 h w"]:
    """Images as the model sees them."""
    return torch.stack([load(render(scene, size=DRAWN).pixels, ImageSpec((SIDE, SIDE))) for scene in scenes])


def _whole(source: DescribedScenes) -> Batch:
    """All rows as a run's loader gives them, as one batch."""
    contents = BatchContents(regions={"most": MOST, "phrases": "phrases", "unit": "pixel"})
    spec = ImageSpec((SIDE, SIDE))
    return next(
        Loader(
            source, batch_size=len(source), image_spec=spec, tokenizer=ClipTokenizer(CONTEXT), seed=0, contents=contents
        )
    )


def _some(whole: Batch, rows: Int[Tensor, " b"]) -> Batch:
    regions, said = cast(Regions, whole.extra["regions"]), cast(Tensor, whole.extra["region_text"])
    ids = None if regions.ids is None else regions.ids[rows]
    extra: dict[str, object] = {
        "regions": Regions(regions.boxes[rows], regions.valid[rows], None, None, ids),
        "region_text": said.unflatten(0, (len(whole.image), MOST))[rows].flatten(0, 1),
    }
    extra |= {name: cast(Tensor, whole.extra[name])[rows] for name in ("image_box", "image_flipped")}
    return Batch(whole.image[rows], whole.text[rows], extra)
