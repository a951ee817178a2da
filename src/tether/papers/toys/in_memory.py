"""Train a small CLIP on pairs that lie in memory: a run's loop without its files, for checks that train many models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.optim import parameter_groups
from tether.train.contrastive import ContrastiveStep, PairForward

if TYPE_CHECKING:
    from tether.core.protocols import Objective
    from tether.models.dual import Clip
    from tether.papers.lab import Pairs

WARM_SHARE = 0.1
BETAS = (0.9, 0.98)  # arXiv 2103.00020, table 6
LARGEST_GRADIENT = 1.0


def train_pairs(
    model: Clip,
    pairs: Pairs,
    *,
    objective: Objective,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    weight_decay: float = 0.2,
) -> Clip:
    """Train the model in place on the first caption of each picture; AdamW, a warm-up and a cosine, gradients clipped.

    Args:
        model: in training mode; it comes back in evaluation mode.
        pairs: what it learns from.
        objective: the loss.
        steps: optimiser steps.
        batch_size: pairs of each, drawn without repeats.
        learning_rate: the highest.
        generator: of the batches.
        weight_decay: of matrices.

    Returns:
        The model.
    """
    tokens = model.tokenizer([texts[0] for texts in pairs.texts])
    model.prune_vocabulary_(tokens)
    forward, step = PairForward(model), ContrastiveStep(objective, steps=steps, seed=0)
    groups = parameter_groups(model, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=WARM_SHARE
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for at in range(steps):
        chosen = torch.randperm(len(pairs), generator=generator)[:batch_size]
        batch = Batch(pairs.pixels[chosen], tokens[chosen])
        optimizer.zero_grad()
        step(forward, batch, step=at, gather=LOCAL).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale_()
    model.restore_vocabulary_()
    return model.eval()
