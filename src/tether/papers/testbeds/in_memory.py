"""Train a small CLIP on rows that lie in memory: a run's loop without its files, for checks that train many models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tether.core.gather import LOCAL
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import GlobalNorm
from tether.train.loop import Player, Precision, fit
from tether.train.schedules import Cosine
from tether.train.steps.module import StepModule

if TYPE_CHECKING:
    from tether.core.protocols import GradClipper, Step
    from tether.core.types import Batch
    from tether.models.dual import Clip

WARM_SHARE = 0.1
BETAS = (0.9, 0.98)  # arXiv 2103.00020, table 6
LARGEST_GRADIENT = 1.0


def fit_rows(
    model: Clip,
    batch_of: Callable[[Tensor], Batch],
    *,
    rows: int,
    step: Step,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    weight_decay: float = 0.2,
) -> Clip:
    """Train a model in place: AdamW, a warm-up and a cosine, gradients clipped at a norm of 1.

    Args:
        model: as ``create`` or ``load`` gave it; it comes back in evaluation mode.
        batch_of: indices (b,) to a batch.
        rows: how many there are to choose from.
        step: from a batch to a loss.
        steps: optimiser steps.
        batch_size: rows of each, drawn without repeats.
        learning_rate: the highest.
        generator: of the batches.
        weight_decay: of matrices.

    Returns:
        The model.
    """
    forward = StepModule(model.train())
    optimizer = torch.optim.AdamW(
        parameter_groups(model, weight_decay=weight_decay), lr=learning_rate, betas=BETAS, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=WARM_SHARE, cycle_momentum=False
    )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for at in range(steps):
        batch = batch_of(torch.randperm(rows, generator=generator)[:batch_size])
        optimizer.zero_grad()
        step(forward, batch, step=at, gather=LOCAL).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale_()
    return model.eval()


def fit_batches(
    model: Clip,
    step: Step,
    batches: Iterator[Batch],
    *,
    steps: int,
    warmup: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.1,
    clipper: GradClipper | None = None,
) -> Clip:
    """Train a model in place by the loop of a run: our AdamW and a cosine, on the CPU in float32.

    Args:
        model: as ``create`` gave it; it comes back in evaluation mode.
        step: from a batch to a loss.
        batches: without end.
        steps: optimiser steps.
        warmup: steps until the learning rate is reached.
        learning_rate: the highest.
        weight_decay: of matrices.
        clipper: of gradients; default: a global norm of 1.

    Returns:
        The model.
    """
    optimizer = AdamW(parameter_groups(model, weight_decay=weight_decay), lr=learning_rate)
    for group in optimizer.param_groups:
        group["initial_lr"] = learning_rate
    player = Player(step, optimizer, list(model.named_parameters()), Cosine(warmup=warmup), clipper or GlobalNorm())
    fit(
        StepModule(model.train()),
        [player],
        batches,
        start=0,
        steps=steps,
        accumulate=1,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=lambda report: model.clamp_logit_scale_(),
    )
    return model.eval()
