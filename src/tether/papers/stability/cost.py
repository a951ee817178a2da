"""What each guard adds to a step of AdamW, in units of ``torch.nn.utils.clip_grad_norm_``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import count

import torch
from torch import nn

from tether.optim import AdamW
from tether.papers.stability.guards import Guard
from tether.train.costs import Cost, relative, timed

WIDTH, BLOCKS = 256, 12
"""Twelve tensors for each block and one table: the shapes of a transformer of 12 M parameters."""
ROUNDS, CALLS = 7, 3
_GRADIENT_NORM = 0.3


def costs(guards: Mapping[str, Guard], *, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, Cost]:
    """Time of each guard on a calm step: the same gradients each time, which no constant limit acts on.

    AutoClip's limit is then their own norm, so it acts, as it does in most steps of a training. A clipper is timed
    alone. Of an optimiser's step the time of AdamW's is taken off, so it may be below 0.

    Args:
        guards: by name.
        rounds: interleaved, each in an order of its own.
        calls: in each round.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work: dict[str, Callable[[], object]] = {}
        named = _parameters()
        parameters = [parameter for _, parameter in named]
        work[" torch"] = lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        work[" adamw"] = AdamW([{"params": _parameters()}], lr=1e-6).step
        for guard in guards.values():
            work[guard.name] = _clip(guard, named) if guard.kind == "clipper" else _step(guard)
        seconds = timed(work, rounds=rounds, calls=calls, device=torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    found = {}
    for guard in guards.values():
        own = seconds[guard.name]
        if guard.kind == "optimizer":
            own = [one - usual for one, usual in zip(own, seconds[" adamw"], strict=True)]
        found[guard.name] = relative(own, seconds[" torch"])
    return found


def _clip(guard: Guard, named: list[tuple[str, nn.Parameter]]) -> Callable[[], object]:
    clipper, steps = guard.clipper(), count()
    return lambda: clipper.clip_(named, step=next(steps))


def _step(guard: Guard) -> Callable[[], object]:
    groups = [{"name": "decay", "params": _parameters(), "weight_decay": 0.0, "lr_scale": 1.0}]
    return guard.optimizer(groups, model="", rate=1e-6, betas=(0.9, 0.98)).step


def _parameters() -> list[tuple[str, nn.Parameter]]:
    """Named weights with calm gradients: far below any clipper's constant limit."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,)]
    shapes += [(WIDTH,), (WIDTH,), (4 * WIDTH, WIDTH), (4 * WIDTH,), (WIDTH, 4 * WIDTH), (WIDTH,)]
    shapes = [(10_000, WIDTH), *(shapes * BLOCKS)]
    spread = _GRADIENT_NORM / math.sqrt(sum(math.prod(shape) for shape in shapes))
    named = []
    for number, shape in enumerate(shapes):
        parameter = nn.Parameter(torch.randn(shape, generator=draw) * 0.5)
        parameter.grad = torch.randn(shape, generator=draw) * spread
        named.append((f"tensor{number}", parameter))
    return named
