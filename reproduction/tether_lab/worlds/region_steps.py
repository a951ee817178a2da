"""The small CLIP of asked boxes goes on by a composed step, whose views and terms say what of regions is learnt."""

from __future__ import annotations

import copy
from typing import Any, Literal

from tether.adaptation.recipes.moving import move_
from tether.adaptation.recipes.tuning import Tuning
from tether.data.contents import BatchContents
from tether.losses import ClipLoss
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.optim.clip import GlobalNorm
from tether.training.steps import ComposedStep
from tether.training.tuning import play
from tether_lab.lab.lab import Lab
from tether_lab.worlds.asked_boxes import BATCH, COLUMNS, DECAY, STEPS, BoxBench, given_pairs
from tether_lab.worlds.with_heads import finished


def taught_by(
    lab: Lab,
    bed: BoxBench,
    parts: dict[str, Any],
    *,
    rate: float,
    moves: Literal["image", "both"] = "both",
    steps: int = STEPS,
) -> Clip | WrappedEncoder:
    """The start after so many steps; scenes and the order of the batches are the same in all arms.

    Args:
        lab: seed and budget.
        bed: of the seed.
        parts: views, terms, heads and teacher of the step; none of them is captions alone.
        rate: learning rate at the start; it falls to 0 as a cosine.
        moves: the towers that learn.
        steps: of the optimiser.
    """
    model, steps = copy.deepcopy(bed.start), lab.steps(steps)
    step = ComposedStep(ClipLoss(duplicates="positives"), steps=steps, seed=lab.seed, **parts)
    move_(model, moves)
    step.see_start(model)
    heads = step.new_heads(model)
    tuning = Tuning(
        step=step,
        batches=given_pairs(lab, bed).loader(
            model, batch_size=lab.steps(BATCH, 8), contents=BatchContents(regions=COLUMNS)
        ),
        steps=steps,
        optimizer={"name": "adamw", "lr": rate},
        weight_decay=DECAY,
        clipper=GlobalNorm(),
        modules=heads,
    )
    play(tuning, model, seed=lab.seed)
    return finished(step, model, heads)
