"""A tiny EVA-CLIP on scenes, in few steps of large batches with half of each image's patches: EVA-CLIP's recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from tether.losses import ClipLoss
from tether.models import create
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.lab import Lab
from tether_lab.worlds import reworded
from tether_lab.worlds.in_memory import fit_batches, shuffled, unit_pairs

SCENES, BATCH, STEPS, WARMUP = 8192, 1024, 64, 8
HELD_OUT = 1024
KEEP_PATCHES = 0.5
WORLD = replace(reworded.WORLD, things=(1, 2), sizes=("large",))
"""One or two large plain things on paper."""
WEIGHT_DECAY = 0.05


def held_out_loss(lab: Lab, optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> float:
    """The contrastive loss, in nats, of held-out scenes after training by one optimiser; not finite ends as chance.

    Weights, batches and patches depend on the seed alone.

    Args:
        lab: seed and budget.
        optimizer: from groups of parameters to an optimiser; gradients come to it with a norm of at most 1.
    """
    seen = reworded.draw_scenes("train", count=lab.steps(SCENES, 64), seed=lab.seed, world=WORLD)
    asked = reworded.draw_scenes("test", count=lab.steps(HELD_OUT, 32), seed=lab.seed, world=WORLD)
    said, queries = (reworded.wordings(one.scenes, how="plain", seed=lab.seed) for one in (seen, asked))
    model = create("eva02-tiny", seed=lab.seed)
    tokens = model.tokenizer([*said, *queries])
    model.prune_vocabulary_(tokens)
    steps = lab.steps(STEPS)
    step = ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=lab.seed, keep_patches=KEEP_PATCHES)
    batches = shuffled(seen.pixels, tokens, size=BATCH, generator=lab.generator("batches"))
    fit_batches(model, step, batches, steps=steps, warmup=WARMUP, weight_decay=WEIGHT_DECAY, optimizer=optimizer)
    model.restore_vocabulary_()
    images, texts = unit_pairs(model, asked.pixels, queries)
    with torch.inference_mode():
        logits = model.logit_scale * images @ texts.T
        right = torch.arange(len(asked))
        loss = float((F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2)
    return loss if math.isfinite(loss) else math.log(len(asked))
