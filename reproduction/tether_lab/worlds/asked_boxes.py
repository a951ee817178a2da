"""Scenes whose boxes are asked for and the small CLIP that all arms begin as; what models say of boxes and images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.tuning import play
from tether.data.regions import RegionColumns
from tether.evaluate.box_questions import ask_boxes
from tether.models.embed import encode_images
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.dense_regions import Bins, Last, Rows
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes, in_memory, masked_things
from tether_lab.worlds.drawn_shapes import PHRASES, ShapeScenes

STEPS, BATCH, DECAY = 150, 64, 0.1
SINGLE = 1_500
COLUMNS: dict[str, Any] = {"most": masked_things.THINGS[1], "phrases": "phrases", "unit": "pixel"}


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


def settings(lab: Lab, *, rate: float) -> dict[str, Any]:
    """Of a recipe: steps, images of a step, decay and learning rate, which falls to 0 as a cosine."""
    return {
        "steps": lab.steps(STEPS),
        "batch_size": lab.steps(BATCH, 8),
        "learning_rate": rate,
        "weight_decay": DECAY,
    }


def given_pairs(lab: Lab, bed: BoxBench) -> Given:
    """The scenes to learn from, in the same order in all arms."""
    return Given("pairs", bed.train, len(bed.train), seed=lab.seed)


def taught(lab: Lab, bed: BoxBench, recipe: TuneRecipe) -> Clip:
    """A copy of the start after a recipe."""
    model = copy.deepcopy(bed.start)
    outcome = play(recipe.tuning(model, given_pairs(lab, bed)), model, seed=lab.seed).outcome
    return cast(Clip, outcome.model if outcome is not None and outcome.model is not None else model).eval()


def boxes_named(
    model: Clip | WrappedEncoder, bed: BoxBench, *, last: Last = "value", rows: Rows = "unit", bins: Bins = "one"
) -> float:
    """Boxes whose phrase, of all phrases of the scenes, the patches inside say best; percent."""
    (found,) = ask_boxes(bed.asked, models=[model], columns=RegionColumns(**COLUMNS), last=last, rows=rows, bins=bins)
    assert found.patches is not None  # it is a vision transformer
    return in_memory.percent(found.patches)


def crops_named(model: Clip | WrappedEncoder, bed: BoxBench) -> float:
    """The same of the boxes cut out and shown alone."""
    (found,) = ask_boxes(bed.asked, models=[model], columns=RegionColumns(**COLUMNS))
    return in_memory.percent(found.crops)


def recall(model: Clip | WrappedEncoder, bed: BoxBench) -> float:
    """At 1 among the scenes of the pool, the mean of both directions, in percent."""
    return 100 * in_memory.mean_recall(*in_memory.unit_pairs(model, drawn_shapes.pixels_of(bed.pool), bed.pool.texts))


def images_named(model: Clip | WrappedEncoder, bed: BoxBench) -> float:
    """Single things whose phrase, out of 24, the whole image says best; percent."""
    image = F.normalize(encode_images(model, [drawn_shapes.pixels_of(bed.single)]), dim=1)
    text = in_memory.unit_texts(model, PHRASES)
    right = torch.tensor([PHRASES.index(some[0]) for some in bed.single.phrases])
    return in_memory.percent((image @ text.T).argmax(dim=1) == right)
