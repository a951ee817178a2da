"""One training run of the bench, and what it leaves."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from tether.optim import clip_and_step, parameter_groups
from tether.papers.stability.faults import FAULTS, Fault
from tether.papers.stability.guards import Guard
from tether.papers.stability.models import BenchModel, subject

STEPS = 120
WARMUP = 0.1
"""Share of the run over which the learning rate rises; then it stays, so that a late fault meets all of it."""
LOOK_EVERY = 0.1
"""Share of the run between two looks at held-out data, in runs without a fault."""
BEFORE = 20
"""Steps before, planted ones left out, whose median loss is the level that a spike rises from."""


@dataclass(frozen=True, slots=True)
class BenchRun:
    """What one run left.

    Attributes:
        model: name of the subject.
        fault: name of the fault.
        guard: name of the clipper or optimiser.
        seed: of weights and batches.
        final: loss on held-out data after the last step, in nats; None when it is not finite.
        looks: (steps taken, loss on held-out data) during runs without a fault.
        losses: training loss of each step; None when it is not finite.
        norms: gradient norm of each step before clipping; None when it is not finite.
        thresholds: the clipper's limit at each step; None when there is none.
        scales: the factor the gradients were given at each step, the smallest if it differs by tensor.
        skipped: steps not taken because a gradient was not finite.
        cpu_seconds: processor time of the run.
    """

    model: str
    fault: str
    guard: str
    seed: int
    final: float | None
    looks: tuple[tuple[int, float | None], ...]
    losses: tuple[float | None, ...]
    norms: tuple[float | None, ...]
    thresholds: tuple[float | None, ...]
    scales: tuple[float, ...]
    skipped: int
    cpu_seconds: float

    @property
    def clipped(self) -> float:
        """Share of the steps in which gradients were scaled down."""
        return sum(scale < 1 for scale in self.scales) / len(self.scales)


def run(model: str, *, fault: str, guard: Guard, seed: int, steps: int = STEPS) -> BenchRun:
    """Train once; runs of equal model and seed see the same weights and batches whatever the fault and the guard.

    Args:
        model: in ``MODELS``.
        fault: in ``FAULTS``.
        guard: what stands against it.
        seed: of weights and batches (>= 0).
        steps: optimiser steps.
    """
    began = time.process_time()
    who, wrong = subject(model), FAULTS[fault]
    network = _network(who, seed, wrong)
    optimizer = guard.optimizer(
        parameter_groups(network, weight_decay=who.weight_decay), model=model, rate=who.rate, betas=who.betas
    )
    rates = [group["lr"] * group.get("lr_scale", 1.0) * wrong.rate_factor for group in optimizer.param_groups]
    clipper, named = guard.clipper(), list(network.named_parameters())
    draw, planted = torch.Generator().manual_seed(seed), set(wrong.planted(steps))
    looks, rows = [], []
    for step in range(steps):
        if fault == "clean" and step % max(1, round(LOOK_EVERY * steps)) == 0:
            looks.append((step, _finite(who.held_out(network))))
        strikes = step in planted
        _set_rate(optimizer, rates, min(1.0, (step + 1) / max(1, round(WARMUP * steps))))
        loss = who.loss(network, who.batch(draw, contents=wrong.contents if strikes else "whole"))
        optimizer.zero_grad()
        (loss * (wrong.loss_factor if strikes else 1.0)).backward()
        if strikes and wrong.gradient_factor != 1:
            _spoil(network, who.spoiled, wrong.gradient_factor)
        report = clip_and_step(optimizer, clipper=clipper, named_params=named, step=step)
        who.after_step(network)
        rows.append((loss.detach(), report.norm, report.threshold, report.scale, report.skip))
    losses, norms, thresholds, scales, skips = (torch.stack(list(row)).tolist() for row in zip(*rows, strict=True))
    final = _finite(who.held_out(network))
    if fault == "clean":
        looks.append((steps, final))
    return BenchRun(
        model=model,
        fault=fault,
        guard=guard.name,
        seed=seed,
        final=final,
        looks=tuple(looks),
        losses=_short(losses),
        norms=_short(norms),
        thresholds=_short(thresholds),
        scales=tuple(float(f"{scale:.4g}") if scale < 1 else 1.0 for scale in scales),
        skipped=sum(skips),
        cpu_seconds=round(time.process_time() - began, 3),
    )


def spikes(losses: Sequence[float | None], *, rise: float, planted: Sequence[int] = ()) -> int:
    """How often the loss jumped: steps in a row that lie more than ``rise`` above the level before count once.

    The level is the median loss of the ``BEFORE`` steps before; planted steps neither count nor enter it. A loss that
    is not finite is a spike.

    Args:
        losses: of each step; None when it is not finite.
        rise: in nats, see ``BenchModel``.
        planted: steps at which the bench itself spoiled the loss.
    """
    places, found, inside = set(planted), 0, False
    for step, loss in enumerate(losses):
        if step in places:
            continue
        before = [
            value
            for earlier in range(max(0, step - BEFORE), step)
            if earlier not in places and (value := losses[earlier]) is not None
        ]
        high = loss is None or (len(before) >= BEFORE // 2 and loss > statistics.median(before) + rise)
        found += high and not inside
        inside = high
    return found


def _network(who: BenchModel, seed: int, wrong: Fault) -> nn.Module:
    network = who.model(seed).train()
    if wrong.precision == "bf16":
        network.to(torch.bfloat16)
    elif wrong.precision == "int4":
        from tether.compress.quantise import FakeQuant

        FakeQuant(scheme="int4", group=64).apply_(network)
    return network


def _set_rate(optimizer: Optimizer, rates: Sequence[float], factor: float) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor


@torch.no_grad()
def _spoil(network: nn.Module, name: str, factor: float) -> None:
    for own, parameter in network.named_parameters():
        if own == name and parameter.grad is not None:
            parameter.grad.mul_(factor)
            return
    raise AssertionError(f"the model has no gradient called {name}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(values: Sequence[float]) -> tuple[float | None, ...]:
    """Four digits are enough to draw and to count with."""
    return tuple(float(f"{value:.4g}") if math.isfinite(value) else None for value in values)
