"""The loop of a fine-tuning: a run's own, on batches that are given, with the model in eval mode."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, TypeVar

import torch
from torch import nn

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Step
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import NoClip
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Schedule

Given = TypeVar("Given")


def descent(
    model: Clip | WrappedEncoder,
    moving: Mapping[str, nn.Parameter],
    *,
    step: Step,
    schedule: Schedule,
    learning_rate: float,
    weight_decay: float,
    precision: Literal["fp32", "bf16"],
) -> Callable[..., None]:
    """``training.loop.fit`` with all but the module, ``batches``, ``start``, ``steps`` and ``on_step`` given.

    It moves by AdamW with torch's own settings, and clips nothing.

    Args:
        model: an encoder.
        moving: those of its parameters that move, by name.
        step: from a batch to a loss.
        schedule: of the learning rate.
        learning_rate: the highest.
        weight_decay: on matrices only.
        precision: ``bf16`` runs under autocast.
    """
    groups = parameter_groups(model, weight_decay=weight_decay)
    optimizer = AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8)
    for group in optimizer.param_groups:
        group["initial_lr"] = learning_rate
    return functools.partial(
        fit,
        players=[Player(step, optimizer, list(moving.items()), schedule, NoClip())],
        accumulate=1,
        precision=Precision(model.logit_scale.device, torch.float32 if precision == "fp32" else torch.bfloat16),
        gather=LOCAL,
    )


def exactly(batches: Iterable[Given], steps: int) -> Iterator[Given]:
    """The first ``steps`` batches; fewer are an InputError."""
    count = 0
    for batch in itertools.islice(batches, steps):
        yield batch
        count += 1
    if count < steps:
        raise InputError(f"batches: expected at least steps={steps}, got {count}")
