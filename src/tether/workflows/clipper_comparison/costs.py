"""Time of clippers and optimisers as a multiple of ``torch.nn.utils.clip_grad_norm_``'s, in interleaved rounds."""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import nn

from tether.core.protocols import GradClipper
from tether.optim import AdamW

WIDTH, BLOCKS = 256, 12
"""Twelve tensors for each block and one table: the shapes of a transformer of 12 M parameters."""
ROUNDS, CALLS = 7, 3
_TORCH, _ADAMW = " torch", " adamw"

Work = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Time as a multiple of a reference's: the median over rounds, and the range of the rounds."""

    ratio: float
    low: float
    high: float


def costs(
    clippers: Mapping[str, GradClipper],
    named: Sequence[tuple[str, nn.Parameter]],
    *,
    steps: Work | None = None,
    rounds: int = ROUNDS,
    calls: int = CALLS,
) -> dict[str, Cost]:
    """Time of each clipper on these gradients, and of optimisers' steps beyond AdamW's.

    On the CPU it is processor time of this process, on an accelerator elapsed time.

    Args:
        clippers: by name.
        named: parameters with their gradients.
        steps: of optimisers, by name.
        rounds: interleaved, so that a busy machine is unfair to all alike; every one has an order of its own.
        calls: of each in one round, after one that is not timed: none pays for the caches that another one filled.
    """
    parameters = [parameter for _, parameter in named]

    def repeated(clipper: GradClipper) -> Callable[[], object]:
        numbers = count()
        return lambda: clipper.clip_(named, step=next(numbers))

    work = {name: repeated(clipper) for name, clipper in clippers.items()} | dict(steps or {})
    work[_TORCH] = lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    if steps:
        work[_ADAMW] = AdamW(calm_group(), lr=1e-6).step
    seconds = _timed(work, rounds=rounds, calls=calls, device=parameters[0].device)
    found = {}
    for name in (*clippers, *(steps or {})):
        less = seconds[_ADAMW] if name not in clippers else [0.0] * rounds
        ratios = [(own - other) / unit for own, other, unit in zip(seconds[name], less, seconds[_TORCH], strict=True)]
        found[name] = Cost(statistics.median(ratios), min(ratios), max(ratios))
    return found


def calm_gradients_(parameters: Sequence[nn.Parameter], *, norm: float) -> None:
    """Give random gradients of this joint norm, the same in every call."""
    draw = torch.Generator().manual_seed(0)
    spread = norm / math.sqrt(sum(parameter.numel() for parameter in parameters))
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter) * spread


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch works with one thread; afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(work: Work, *, rounds: int, calls: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait = (lambda: None) if device.type == "cpu" else (lambda: torch.accelerator.synchronize(device))
    for piece in work.values():
        piece()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for number in range(rounds):
        random.Random(number).shuffle(names)  # a piece that always follows the same one meets what that left behind
        for name in names:
            work[name]()
            wait()
            began = clock()
            for _ in range(calls):
                work[name]()
            wait()
            seconds[name].append((clock() - began) / calls)
    return seconds


def calm_group() -> list[dict]:
    """New weights as one group for an optimiser, with calm gradients: far below any clipper's constant limit."""
    shapes = [(WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,)]
    shapes += [(WIDTH,), (WIDTH,), (4 * WIDTH, WIDTH), (4 * WIDTH,), (WIDTH, 4 * WIDTH), (WIDTH,)]
    draw = torch.Generator().manual_seed(0)
    every = [(10_000, WIDTH), *(shapes * BLOCKS)]
    parameters = [nn.Parameter(torch.randn(shape, generator=draw) * 0.5) for shape in every]
    calm_gradients_(parameters, norm=0.3)
    return [{"name": "decay", "params": parameters, "weight_decay": 0.0, "lr_scale": 1.0}]
