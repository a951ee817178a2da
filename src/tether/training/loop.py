"""The loop: accumulate, differentiate, clip, skip or step, report. It knows no method's name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tether.core.gather import Gather
from tether.core.protocols import GradClipper, Step, Taught
from tether.core.types import Batch, ClipReport, Loss
from tether.optim.fused_clip_step import clip_and_step
from tether.training.parallel import local_gradients
from tether.training.schedules import Schedule


@dataclass(frozen=True)
class Player:
    """One optimiser and the step it learns from; two-player papers have two of them.

    Attributes:
        step: makes the loss.
        optimizer: moves ``named_parameters``; each group's ``initial_lr`` is what the schedule multiplies.
        named_parameters: what the clipper sees.
        schedule: learning-rate factor.
        clipper: bounds the gradients of this player.
        every: it plays at steps divisible by this.
        first: and not before this one.
    """

    step: Step
    optimizer: torch.optim.Optimizer
    named_parameters: Sequence[tuple[str, nn.Parameter]]
    schedule: Schedule
    clipper: GradClipper
    every: int = 1
    first: int = 0


@dataclass(frozen=True)
class StepReport:
    """What happened in one step; tensors stay on the device until somebody reads them."""

    step: int
    loss: Tensor
    terms: dict[str, Tensor]
    clip: ClipReport
    learning_rate: float


@dataclass
class Precision:
    """Autocast and, for float16, the loss scale."""

    device: torch.device
    dtype: torch.dtype
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        """Float16 alone needs its gradients scaled."""
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The forward's context; plain for float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def fit(
    model: nn.Module,
    players: Sequence[Player],
    batches: Iterator[Batch],
    *,
    start: int,
    steps: int,
    end: int | None = None,
    accumulate: int,
    precision: Precision,
    gather: Gather,
    on_step: Callable[[StepReport], None],
) -> None:
    """Train ``model`` from step ``start`` to ``steps``.

    Args:
        model: what the players' steps are given; its wrapper talks to other processes in backward.
        players: who moves which parameters.
        batches: never ends.
        start: first step (0-based).
        steps: of the whole run, which the schedule looks at.
        end: stop before this step; None is the end of the run.
        accumulate: batches per step; their losses are averaged.
        precision: autocast and loss scale.
        gather: rows of all processes.
        on_step: called after each player's step and before the next forward: bound parameters, log, save, evaluate.
    """
    for step in range(start, steps if end is None else end):
        for player in players:
            if step < player.first or step % player.every:
                continue
            factor = player.schedule.factor(step, steps=steps)
            for group in player.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            losses = [
                _backward(
                    model,
                    player.step,
                    next(batches).to(precision.device),
                    step=step,
                    share=1 / accumulate,
                    last=part == accumulate - 1,
                    precision=precision,
                    gather=gather,
                )
                for part in range(accumulate)
            ]
            report = _clip_and_step(player, step=step, scaler=precision.scaler)
            if isinstance(player.step, Taught):
                player.step.follow_(step=step)
            model.zero_grad(set_to_none=True)  # also what this loss left on the other players' parameters
            on_step(_report(step, losses, report, player.optimizer.param_groups[0]["lr"]))


def _clip_and_step(player: Player, *, step: int, scaler: torch.amp.GradScaler) -> ClipReport:
    """Move the weights, or leave them when the gradients are not finite; nothing is read from the device."""
    if not scaler.is_enabled():
        return clip_and_step(player.optimizer, clipper=player.clipper, named_params=player.named_parameters, step=step)
    scaler.unscale_(player.optimizer)
    report = player.clipper.clip_(player.named_parameters, step=step)
    scaler.step(player.optimizer)
    scaler.update()
    return report


def _backward(
    model: nn.Module,
    make_loss: Step,
    batch: Batch,
    *,
    step: int,
    share: float,
    last: bool,
    precision: Precision,
    gather: Gather,
) -> Loss:
    with contextlib.nullcontext() if last else local_gradients(model):
        with precision.autocast():
            loss = make_loss(model, batch, step=step, gather=gather)
        precision.scaler.scale(loss.total * share).backward()
    return Loss(loss.total.detach(), loss.terms)


def _report(step: int, losses: Sequence[Loss], clip: ClipReport, learning_rate: float) -> StepReport:
    terms = {name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in losses[0].terms}
    return StepReport(step, torch.stack([loss.total for loss in losses]).mean(), terms, clip, learning_rate)
