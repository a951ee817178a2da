"""A small CLIP that read captions and close-ups learns boxes in several ways; what it says of boxes and images then."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.adapt.recipes.dense import DenseRecipe
from tether.adapt.recipes.given import Given
from tether.adapt.recipes.local_global import LocalGlobal
from tether.adapt.recipes.moving import move_
from tether.adapt.recipes.tuning import Tuning, play
from tether.data.captions.concepts import concept_pool
from tether.data.contents import BatchContents
from tether.data.regions import RegionColumns
from tether.evaluate.box_questions import ask_boxes
from tether.losses import ClipLoss
from tether.losses.boxes import corners, overlap
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.prompted import locate, region_embeddings
from tether.models.dense_regions import Bins, Last, Rows
from tether.models.dual import Clip
from tether.models.embed import encode_images, encode_texts
from tether.optim.clip import GlobalNorm
from tether.papers.testbeds import drawn_shapes, in_memory, masked_things
from tether.papers.testbeds.drawn_shapes import PHRASES, ShapeScenes
from tether.train.steps import ComposedStep

if TYPE_CHECKING:
    from tether.losses.region_distill import Towards
    from tether.models.wrapped_encoders import WrappedEncoder
    from tether.papers.reproduction.lab import Lab

STEPS, BATCH, DECAY = 150, 64, 0.1
SINGLE = 300
SPLIT, ALPHA = 3, 0.7
"""Of CLIPSelf: rows and columns of the grid, at most, of images of six patches a side; share of the way."""
COLUMNS: dict[str, Any] = {"most": masked_things.THINGS[1], "phrases": "phrases", "unit": "pixel"}
HEADS, FASTER = 4, 10.0
"""Of the prompter: heads, and how many times faster than the model its new weights learn."""
PROMPT = "a {}"

Arm = (
    Literal["self", "local_captions", "local_cls", "local_patch", "local_objects"]
    | Literal["captions", "pooled", "prompter", "image_captions", "concepts", "no_distill", "no_contrast"]
)
"""CLIPSelf; FarSLIP's captions alone, with crops' own embeddings or crops' patches, and with objects besides; captions
alone, with boxes and phrases pooled out of patches or read by a prompter; with the text side at rest captions alone,
RegionCLIP, and RegionCLIP without one of its parts."""
TARGETS: dict[Arm, tuple[Towards, float, float]] = {
    "local_captions": ("patch", 0.0, 0.0),
    "local_cls": ("cls", 0.1, 0.0),
    "local_patch": ("patch", 0.1, 0.0),
    "local_objects": ("patch", 0.1, 1.0),
}
"""Of FarSLIP: what patches are held to, the weight of that, and of objects."""
CONCEPTS: dict[Arm, tuple[float, float]] = {
    "concepts": (1.0, 1.0),
    "no_distill": (0.0, 1.0),
    "no_contrast": (1.0, 0.0),
}
"""Of RegionCLIP: weights of distillation and contrast."""


@dataclass(frozen=True, slots=True)
class BoxBench:
    """What all arms of a seed share.

    Attributes:
        start: the CLIP that all begin as.
        train: scenes to learn from.
        asked: scenes whose boxes are asked for.
        pool: scenes to be found by their captions, no two of which show the same things.
        single: scenes of one thing, to be named as a whole.
    """

    start: Clip
    train: ShapeScenes
    asked: ShapeScenes
    pool: ShapeScenes
    single: ShapeScenes


def prepare(lab: Lab) -> BoxBench:
    """Teach the CLIP and draw scenes."""
    bed = masked_things.prepare(lab)
    single = drawn_shapes.drawn_scenes(
        lab, "single", count=lab.steps(SINGLE, 12), world=drawn_shapes.shape_world((1, 1))
    )
    return BoxBench(bed.start, bed.train, bed.asked, bed.pool, single)


def taught(lab: Lab, bed: BoxBench, arm: Arm, *, rate: float) -> Clip | WrappedEncoder:
    """The start after so many steps of an arm; scenes and the order of the batches are the same in all.

    Args:
        lab: seed and budget.
        bed: of the seed.
        arm: what is learnt from.
        rate: learning rate at the start; it falls to 0 as a cosine.
    """
    model = copy.deepcopy(bed.start)
    given = Given("pairs", bed.train, len(bed.train), seed=lab.seed)
    size: dict[str, Any] = {
        "steps": lab.steps(STEPS),
        "batch_size": lab.steps(BATCH, 8),
        "learning_rate": rate,
        "weight_decay": DECAY,
    }
    if arm == "self":
        tuning = DenseRecipe(max_split=SPLIT, most=SPLIT**2, alpha=ALPHA, **size).tuning(model, given)
    elif arm in TARGETS:
        target, distill, regions = TARGETS[arm]
        settings: dict[str, Any] = {"boxes": "boxes", **COLUMNS, **size}
        tuning = LocalGlobal(target=target, distill=distill, regions=regions, **settings).tuning(model, given)
    else:
        return _composed(lab, bed, model, given, arm, size)
    outcome = play(tuning, model, seed=lab.seed).outcome
    return cast(Clip, outcome.model if outcome is not None and outcome.model is not None else model).eval()


def _composed(
    lab: Lab, bed: BoxBench, model: Clip, given: Given, arm: Arm, size: dict[str, Any]
) -> Clip | WrappedEncoder:
    """By a composed step; the text side rests where a teacher's texts are learnt from."""
    rests = arm in (*CONCEPTS, "image_captions")
    step = ComposedStep(ClipLoss(duplicates="positives"), steps=size["steps"], seed=lab.seed, **_parts(arm, bed))
    move_(model, "image" if rests else "both")
    step.see_start(model)
    heads = step.new_heads(model)
    tuning = Tuning(
        step=step,
        batches=given.loader(model, batch_size=size["batch_size"], contents=BatchContents(regions=COLUMNS)),
        steps=size["steps"],
        optimizer={"name": "adamw", "lr": size["learning_rate"]},
        weight_decay=DECAY,
        clipper=GlobalNorm(1.0),
        modules=heads,
    )
    play(tuning, model, seed=lab.seed)
    state = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    return cast("Clip | WrappedEncoder", step.finished(model.eval(), state)).eval()


def _parts(arm: Arm, bed: BoxBench) -> dict[str, Any]:
    """Views, terms, heads and teacher of a composed step."""
    if arm in CONCEPTS:
        pool = concept_pool(bed.train.texts, min_count=1)
        random = masked_things.THINGS[1] - 1  # as many as there are things on the mean
        weights = list(CONCEPTS[arm])
        return {
            "views": {
                "image": {"want": "dense"},
                "text": {},
                "teacher_image": {"of": "image", "encoder": "teacher"},
                "concepts_text": {"texts": pool, "prompts": [PROMPT], "encoder": "teacher"},
            },
            "terms": ["objective", {"name": "concepts", "random": random, "temperature": None, "weights": weights}],
            "teacher": "start",
        }
    if arm == "pooled":
        return {
            "views": {"image": {"want": "dense"}, "text": {}, "region_text": {}},
            "terms": ["objective", {"name": "region_text"}],
        }
    if arm == "prompter":
        return {
            "views": {"image": {"want": "states"}, "text": {}, "region_text": {}},
            "terms": ["objective", {"name": "region_text", "head": "prompter"}],
            "heads": {"prompter": {"name": "prompter", "heads": HEADS, "saved": "kept", "rate": FASTER}},
        }
    return {}


def boxes_named(
    model: Clip | WrappedEncoder, bed: BoxBench, *, last: Last = "value", rows: Rows = "unit", bins: Bins = "one"
) -> float:
    """Boxes whose phrase, of all phrases of the scenes, the patches inside say best; percent."""
    (found,) = ask_boxes(bed.asked, models=[model], columns=RegionColumns(**COLUMNS), last=last, rows=rows, bins=bins)
    assert found.patches is not None  # it is a vision transformer
    return 100 * float(found.patches.float().mean())


def crops_named(model: Clip | WrappedEncoder, bed: BoxBench) -> float:
    """The same of the boxes cut out and shown alone."""
    (found,) = ask_boxes(bed.asked, models=[model], columns=RegionColumns(**COLUMNS))
    return 100 * float(found.crops.float().mean())


def recall(model: Clip | WrappedEncoder, bed: BoxBench) -> float:
    """At 1 among the scenes of the pool, the mean of both directions, in percent."""
    return 100 * in_memory.mean_recall(*in_memory.unit_pairs(model, drawn_shapes.pixels_of(bed.pool), bed.pool.texts))


def images_named(model: Clip | WrappedEncoder, bed: BoxBench) -> float:
    """Single things whose phrase, out of 24, the whole image says best; percent."""
    image = F.normalize(encode_images(model, [drawn_shapes.pixels_of(bed.single)]), dim=1)
    text = F.normalize(encode_texts(model, PHRASES), dim=1)
    right = torch.tensor([PHRASES.index(some[0]) for some in bed.single.phrases])
    return 100 * float(((image @ text.T).argmax(dim=1) == right).float().mean())


@dataclass(frozen=True, slots=True)
class Prompted:
    """What a model with a prompter says of the boxes asked for, in percent but for the IoUs.

    Attributes:
        named: boxes whose phrase, of 24, is said best.
        told_apart: of the first two things of an image with different phrases, both take their own of the two.
        iou: mean IoU of true boxes with those that are told of their phrases.
        iou_centre: the same with the mean box of all, at the centre of the image.
    """

    named: float
    told_apart: float
    iou: float
    iou_centre: float


@torch.no_grad()
def prompted_answers(model: ComposedEncoder, bed: BoxBench) -> Prompted:
    """Ask the prompter about each box of the scenes asked for, by the box and by the phrase."""
    text = F.normalize(encode_texts(model, PHRASES), dim=1)
    hits, apart, own = list[Tensor](), list[bool](), list[Tensor]()
    every = [torch.from_numpy(_shares(drawn.boxes)).float() for drawn in bed.asked.drawn]
    mean = torch.cat(every)
    sides = (mean[:, 2:] - mean[:, :2]).mean(dim=0) / 2
    centre = torch.cat([0.5 - sides, 0.5 + sides])
    blind = list[Tensor]()
    pixels = drawn_shapes.pixels_of(bed.asked)
    for image, boxes, phrases in zip(pixels, every, bed.asked.phrases, strict=True):
        right = torch.tensor([PHRASES.index(phrase) for phrase in phrases])
        cosines = region_embeddings(model, image[None], boxes[None])[0] @ text.T
        hits.append(cosines.argmax(dim=1) == right)
        two = next((place for place, one in enumerate(right.tolist()) if one != right[0]), None)
        if two is not None:
            between = cosines[[0, two]][:, right[[0, two]]]
            apart.append(bool((between.argmax(dim=1) == torch.arange(2)).all()))
        single = torch.tensor([phrases.count(phrase) == 1 for phrase in phrases])
        told = corners(locate(model, image[None], text[right][None])[0])
        own.append(overlap(told, boxes)[0][single])
        blind.append(overlap(centre.expand_as(boxes), boxes)[0][single])
    return Prompted(
        named=100 * float(torch.cat(hits).float().mean()),
        told_apart=100 * sum(apart) / max(1, len(apart)),
        iou=float(torch.cat(own).mean().nan_to_num()),
        iou_centre=float(torch.cat(blind).mean().nan_to_num()),
    )


def _shares(boxes: Any) -> Float[Any, "k 4"]:
    return boxes / drawn_shapes.DRAWN
