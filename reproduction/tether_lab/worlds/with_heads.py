"""Train a model and the heads of a step by the loop of a run, without its files, by an optimiser that learns fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.component import build
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.optim import OPTIMIZERS, parameter_groups, with_timm
from tether.optim.clip import GlobalNorm
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Cosine
from tether.training.steps import ComposedStep
from tether.training.steps.module import StepModule
from tether_lab.worlds import in_memory

OPTIMIZER: dict[str, Any] = {"name": "timm/muon", "momentum": 0.9, "nesterov": True, "ns_steps": 3}
"""That of the recipe ``speedrun``, which learns in few steps."""
WARMUP, DECAY = 10, 0.1


def fit_with_heads(
    model: Clip,
    step: ComposedStep,
    batch_of: Callable[[Tensor], Batch],
    *,
    rows: int,
    batch_size: int,
    steps: int,
    rate: float,
    seed: int,
    generator: torch.Generator,
) -> Clip | WrappedEncoder:
    """The model after so many steps, as a run would save it: behind a head that is kept, if the step has one.

    Args:
        model: trained in place; its vocabulary may be pruned.
        step: whose heads are made anew.
        batch_of: indices (b,) to a batch.
        rows: how many there are; all come once in a random order, again and again.
        batch_size: at most ``rows``.
        steps: of the optimiser.
        rate: the highest, after a warm-up; it falls to 0 as a cosine.
        seed: of dropout.
        generator: of the order.
    """
    heads = step.new_heads(model)
    module = StepModule(model, heads=heads).train()
    spec = {**OPTIMIZER, "lr": rate}
    groups = parameter_groups(module, weight_decay=DECAY)
    optimizer = build(spec, with_timm(OPTIMIZERS, spec), where="test bed: optimizer", params=groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] * group.get("lr_scale", 1.0)
    schedule = Cosine(warmup=min(WARMUP, steps - 1))
    player = Player(step, optimizer, list(module.named_parameters()), schedule, GlobalNorm())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fit(
            module,
            [player],
            map(batch_of, in_memory.draws(rows, size=batch_size, generator=generator)),
            start=0,
            steps=steps,
            accumulate=1,
            precision=Precision(torch.device("cpu"), torch.float32),
            gather=LOCAL,
            on_step=lambda report: model.clamp_logit_scale_(),
        )
    model.restore_vocabulary_()
    return finished(step, model, heads)


def finished(step: ComposedStep, model: Clip, heads: Mapping[str, nn.Module]) -> Clip | WrappedEncoder:
    """The model as a run saves it, in evaluation mode."""
    state = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    return cast("Clip | WrappedEncoder", step.finished(model.eval(), state)).eval()
