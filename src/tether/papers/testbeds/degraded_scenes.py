"""Drawings made worse step by step, and three scores of how good they are: prompts, trained prompts, sharpness."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.adapt.recipes.quality import QualityRecipe
from tether.adapt.recipes.tuning import play
from tether.evaluate.quality_ladder import Photos, ladder_correlations, level_order
from tether.models.dual import Clip
from tether.papers.testbeds import drawn_shapes
from tether.papers.testbeds.drawn_shapes import SIDE
from tether.tasks.quality import QualityScorer, sharpness
from tether.train.tensor_batches import TensorBatches

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

SEEN = ("gaublur", "whitenoise", "jpeg", "darken", "nonlincontrchange")
"""Kinds that are learnt from; ``pixelate`` is no ladder on drawings of this size."""
UNSEEN = "lensblur"
OTHERS = ("motionblur", "impulsenoise", "brighten")
"""Further kinds that were not learnt from, for the notes."""
SCENES, HELD_OUT = 1_000, 60
THINGS = (2, 4)
STEPS, BATCH, RATE = 1_500, 8, 2e-3
M_RANK, M_CONS = 0.02, 0.05
"""Of cosines, which spread by 0.3 over drawings, where CLIP's spread by 0.02; its good and bad prompts lie near."""
SIZED_FOR = 64
"""Lengths of the tables times 48 / 64."""

Score = Callable[[Photos], Float[Tensor, " n"]]


@dataclass(frozen=True, slots=True)
class DegradedBench:
    """What all ways of a seed share.

    Attributes:
        model: a CLIP whose captions say nothing of quality.
        train: (n, 3, 64, 64) drawings to learn from.
        asked: (m, 3, 48, 48) others, as large as the model reads them.
    """

    model: Clip
    train: UInt8[Tensor, "n 3 h w"]
    asked: UInt8[Tensor, "m 3 s s"]


def prepare(lab: Lab) -> DegradedBench:
    """Teach the CLIP and draw the scenes."""
    world = drawn_shapes.shape_world(THINGS)
    parts = []
    for name, count in (("degraded", lab.steps(SCENES, 16)), ("degraded, held out", lab.steps(HELD_OUT, 5))):
        scenes = drawn_shapes.drawn_scenes(lab, name, count=count, world=world)
        parts.append(torch.stack([drawn_shapes.tensor_of(image) for image in scenes.drawn]))
    edge = (parts[1].shape[2] - SIDE) // 2
    asked = parts[1][:, :, edge : edge + SIDE, edge : edge + SIDE].contiguous()
    return DegradedBench(drawn_shapes.captioned_base(lab), parts[0], asked)


def by_prompts(bed: DegradedBench) -> Score:
    """The CLIP as it is."""
    return QualityScorer(bed.model, grid=1).score


def by_training(lab: Lab, bed: DegradedBench) -> Score:
    """A copy of the CLIP that has learnt the kinds of ``SEEN``."""
    recipe = QualityRecipe(
        kinds=SEEN,
        sized_for=SIZED_FOR,
        m_cons=M_CONS,
        m_rank=M_RANK,
        steps=lab.steps(STEPS),
        batch_size=BATCH,
        learning_rate=RATE,
    )
    model = copy.deepcopy(bed.model)
    batches = TensorBatches({"image": bed.train}, batch_size=BATCH, seed=lab.seed)
    play(recipe.describe(model, batches, seed=lab.seed), model, seed=lab.seed)
    return QualityScorer(model.eval(), grid=1).score


def by_sharpness(images: Photos) -> Float[Tensor, " n"]:
    """The variance of the Laplacian."""
    return torch.tensor([sharpness(image) for image in images])


def correlation(score: Score, bed: DegradedBench, *, kind: str) -> float:
    """Spearman's correlation of score and level, of each drawing, the mean over drawings."""
    found = level_order(score, list(bed.asked), kinds=[kind] * len(bed.asked), sized_for=SIZED_FOR)
    return float(ladder_correlations(found).mean())
