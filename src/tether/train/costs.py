"""How much time pieces of work take beside each other: interleaved, so that a busy machine is unfair to all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Cost:
    """Time as a multiple of a reference's: the median over rounds, and the range of the rounds."""

    ratio: float
    low: float
    high: float


def timed(
    work: Mapping[str, Callable[[], object]], *, rounds: int, calls: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round; every round has an order of its own, the same in every call.

    On the CPU it is processor time of this process, on an accelerator elapsed time until it has finished.

    Args:
        work: what to time, by name; each is called once before its calls of a round, so that none pays for the caches
            that another one filled.
        rounds: how often.
        calls: of each piece in one round.
        device: where it runs.
    """
    for piece in work.values():
        piece()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for number in range(rounds):
        random.Random(number).shuffle(names)  # a piece that always follows the same one meets what that left behind
        for name in names:
            work[name]()
            _wait(device)
            began = _clock(device)
            for _ in range(calls):
                work[name]()
            _wait(device)
            seconds[name].append((_clock(device) - began) / calls)
    return seconds


def relative(ours: Sequence[float], reference: Sequence[float]) -> Cost:
    """Seconds of each round over those of the reference in the same round."""
    ratios = [own / other for own, other in zip(ours, reference, strict=True)]
    return Cost(statistics.median(ratios), min(ratios), max(ratios))


def _clock(device: torch.device) -> float:
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
