"""One training run of the bench, and what it leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tether.optim import clip_and_step, parameter_groups
from tether.workflows.clipper_comparison.trace import RunTrace
from tether_lab.stability.faults import FAULTS, Fault
from tether_lab.stability.guard import Guard
from tether_lab.stability.models import BenchModel, subject

STEPS = 120
WARMUP = 0.1
"""Fraction of the run over which the learning rate rises; then it stays, so that a late fault meets all of it."""
LOOK_EVERY = 0.1
"""Fraction of the run between two looks at held-out data, in runs without a fault."""


@dataclass(frozen=True, slots=True)
class BenchRun:
    """What one run left.

    Attributes:
        model: name in ``MODELS``.
        fault: name in ``FAULTS``.
        guard: name of the clipper or optimiser.
        seed: of weights and batches.
        final: loss on held-out data after the last step, in nats; None when it is not finite.
        looks: (steps taken, loss on held-out data) during runs without a fault.
        trace: of its steps.
        cpu_seconds: processor time of the run.
    """

    model: str
    fault: str
    guard: str
    seed: int
    final: float | None
    looks: tuple[tuple[int, float | None], ...]
    trace: RunTrace
    cpu_seconds: float


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
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / max(1, round(WARMUP * steps)))
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
        trace=RunTrace(
            losses=_short(losses),
            norms=_short(norms),
            thresholds=_short(thresholds),
            scales=tuple(float(f"{scale:.4g}") if scale < 1 else 1.0 for scale in scales),
            skipped=tuple(step for step, skip in enumerate(skips) if skip),
        ),
        cpu_seconds=round(time.process_time() - began, 3),
    )


def _network(who: BenchModel, seed: int, wrong: Fault) -> nn.Module:
    network = who.model(seed).train()
    if wrong.precision == "bf16":
        network.to(torch.bfloat16)
    elif wrong.precision == "int4":
        from tether.methods.stable_spam import FourBits

        FourBits(scheme="int4", group=64).apply_(network)
    return network


@torch.no_grad()
def _spoil(network: nn.Module, name: str, factor: float) -> None:
    gradient = network.get_parameter(name).grad
    assert gradient is not None
    gradient.mul_(factor)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(values: Sequence[float]) -> tuple[float | None, ...]:
    """Four digits are enough to draw and to count with."""
    return tuple(_finite(float(f"{value:.4g}")) for value in values)
