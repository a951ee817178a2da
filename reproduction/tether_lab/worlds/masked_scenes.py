"""Masks from words on drawn scenes: a small CLIP that knows its shapes, and ways to read its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.tuning import play
from tether.core.masks import BACKGROUND, NO_CLASS
from tether.evaluate.dense import MaskScores
from tether.methods.clip_dinoiser.distill import ColourTeacher
from tether.methods.clip_dinoiser.head import GroupingHead
from tether.methods.clip_dinoiser.recipe import GroupingRecipe
from tether.methods.clip_dinoiser.segmenter import DinoiserSegmenter
from tether.models.features.penultimate import patch_grid
from tether.models.features.windows import Windows, label_map
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.tasks.segment.segmenter import DenseSegmenter
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import PHRASES, ShapeScenes

THINGS = (2, 4)
UNLABELLED, CHOOSING, ASKED, CALIBRATED = 500, 100, 200, 50
STEPS, BATCH = 300, 16
RATE = 1e-3
LOOKS = (Windows(), Windows(window=96), Windows(size=96))
"""Ways to look at an image, of which each method takes its best: the model's size as one window, twice that as one with
positions resized, and twice that by windows of the model's size."""

SAID = {
    "circle": ("round", "without corners"),
    "square": ("with four equal sides", "with four corners"),
    "triangle": ("with three sides", "with three corners"),
    "star": ("with five points", "pointed"),
}
DESCRIBED = {phrase: SAID[phrase.split()[-1]] for phrase in PHRASES}
CLUSTERS = 12
"""What is said of each phrase, and clusters of these 48 sentences."""

Count = Literal["things", "all"]
"""Which pixels count: those of things alone, or all, with the class ``background``."""


@dataclass(frozen=True, slots=True)
class MaskedScenes:
    """What all ways of a seed share.

    Attributes:
        model: the CLIP.
        unlabelled: scenes to learn from, whose masks and captions nobody reads.
        choosing: scenes with masks, by which a method's way of looking is chosen.
        asked: scenes whose pixels are named.
    """

    model: Clip
    unlabelled: ShapeScenes
    choosing: ShapeScenes
    asked: ShapeScenes


def prepare(lab: Lab) -> MaskedScenes:
    """Teach the CLIP and draw scenes."""
    world = drawn_shapes.shape_world(THINGS)
    return MaskedScenes(
        drawn_shapes.captioned_base(lab),
        drawn_shapes.drawn_scenes(lab, "unlabelled", count=lab.steps(UNLABELLED, 24), world=world),
        drawn_shapes.drawn_scenes(lab, "to choose by", count=lab.steps(CHOOSING, 8), world=world),
        drawn_shapes.drawn_scenes(lab, "asked for masks", count=lab.steps(ASKED, 8), world=world),
    )


def truth(scenes: ShapeScenes, number: int, *, count: Count) -> UInt8[np.ndarray, "h w"]:
    """Of each pixel the phrase of its thing; without a thing 255, or the number of the background."""
    table = np.full(NO_CLASS + 1, len(PHRASES) if count == "all" else NO_CLASS, dtype=np.uint8)
    for place, phrase in enumerate(scenes.phrases[number]):
        table[place + 1] = PHRASES.index(phrase)
    return table[scenes.drawn[number].labels]


def mean_iou(
    segmenter: DenseSegmenter,
    bed: MaskedScenes,
    *,
    count: Count = "things",
    known: bool = False,
    calibrate: bool = False,
    looks: Sequence[Windows] = LOOKS,
) -> float:
    """Over the 24 phrases, in percent, by the way of looking that is best on other scenes.

    Args:
        segmenter: of any windows.
        bed: of the seed.
        count: with ``all`` the class ``background`` is one more.
        known: whether it is told which phrases are true of an image, so that only those are compared.
        calibrate: set ``delta`` of a ``DinoiserSegmenter`` by unlabelled scenes.
        looks: ways to choose from.
    """

    def look(windows: Windows) -> None:
        segmenter.prepare(bed.model, [*PHRASES, BACKGROUND] if count == "all" else PHRASES, windows=windows)
        if calibrate:
            assert isinstance(segmenter, DinoiserSegmenter)
            segmenter.calibrate([drawn_shapes.tensor_of(drawn) for drawn in bed.unlabelled.drawn[:CALIBRATED]])

    found = []
    for windows in looks:
        look(windows)
        found.append(_scenes_iou(segmenter, bed.choosing, count=count, known=known))
    look(looks[found.index(max(found))])
    return _scenes_iou(segmenter, bed.asked, count=count, known=known)


def _scenes_iou(segmenter: DenseSegmenter, scenes: ShapeScenes, *, count: Count, known: bool) -> float:
    """See ``mean_iou``."""
    scores = MaskScores(segmenter.classes, tolerance=0)
    for number, drawn in enumerate(scenes.drawn):
        (masks,) = segmenter.predict([drawn_shapes.tensor_of(drawn)])
        found, labels = masks.labels, truth(scenes, number, count=count)
        if known:
            assert masks.scores is not None  # every DenseSegmenter gives them
            there = np.unique(labels[labels != NO_CLASS])
            among = label_map(torch.from_numpy(masks.scores[there].astype(np.float32)), size=masks.size)
            found = there.astype(np.uint8)[among.numpy()]
        scores.add(found, truth=labels)
    return 100 * scores.report().miou.value


def learnt_head(lab: Lab, bed: MaskedScenes) -> GroupingHead:
    """What ``tether adapt --recipe grouping`` learns from the unlabelled scenes.

    Args:
        lab: seed and budget.
        bed: of the seed.
    """
    recipe = GroupingRecipe(steps=lab.steps(STEPS), batch_size=lab.steps(BATCH, 8), learning_rate=RATE, images="plain")
    given = Given("images", bed.unlabelled, len(bed.unlabelled), seed=lab.seed)
    by = ColourTeacher(grid=patch_grid(bed.model))
    model = frozen_copy(bed.model)
    outcome = play(recipe.describe(model, given, teacher=by), model, seed=lab.seed).outcome
    assert outcome is not None
    assert isinstance(outcome.head, GroupingHead)
    return outcome.head
