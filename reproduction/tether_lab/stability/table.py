"""What the seeds allow one to say: a row for each model, fault and guard, compared with no guard and the usual one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tether.core.errors import InputError
from tether.workflows.clipper_comparison.trace import spikes
from tether_lab.lab.verdict import bounds
from tether_lab.stability.faults import FAULTS
from tether_lab.stability.guards import NONE, USUAL
from tether_lab.stability.models import subject
from tether_lab.stability.runs import BenchRun

TIE = 0.05
"""Differences of the final loss within this many nats to both sides do not matter."""

Word = Literal["better", "ties", "worse", "unclear"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Final loss of a guard less that of what it is compared with, over the same seeds; below 0 is better.

    Attributes:
        mean: over the seeds, in nats.
        low: one-sided 95 % bound of the mean below it (paired t).
        high: the same above it.
        word: what ``judge`` makes of it.
    """

    mean: float
    low: float
    high: float
    word: Word


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One guard against one fault in one model; entry i of each tuple is seed i.

    Attributes:
        model: name of the subject.
        fault: name of the fault.
        guard: name of the clipper or optimiser.
        final: held-out loss, never above that of a model that knows nothing: a ruined run counts as that.
        lost: steps behind the same seed without fault and guard, which reached this loss so much earlier.
        spikes: see ``trace.spikes``.
        skipped: steps whose gradients were not finite.
        clipped: fraction of the steps in which gradients were scaled.
        against_none: compared with AdamW and no clipping under the same fault.
        against_usual: compared with ``GlobalNorm(1.0)`` under the same fault.
    """

    model: str
    fault: str
    guard: str
    final: tuple[float, ...]
    lost: tuple[int, ...]
    spikes: tuple[int, ...]
    skipped: tuple[int, ...]
    clipped: tuple[float, ...]
    against_none: Difference
    against_usual: Difference

    @property
    def mean(self) -> float:
        """Mean final loss."""
        return statistics.fmean(self.final)


def judge(low: float, high: float) -> Word:
    """What an interval of a difference in loss amounts to.

    ``ties`` when all of it lies within ``TIE`` to both sides of 0, ``better`` when all of it lies below 0, ``worse``
    when all of it lies above 0, and ``unclear`` when the seeds do not agree.
    """
    if low >= -TIE and high <= TIE:
        return "ties"
    return "better" if high < 0 else "worse" if low > 0 else "unclear"


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """The difference over paired seeds."""
    differences = [new - old for new, old in zip(ours, theirs, strict=True)]
    low, high = bounds(differences)
    return Difference(statistics.fmean(differences), low, high, judge(low, high))


def rows(outcomes: Sequence[BenchRun], *, kept: Sequence[GuardRow] = ()) -> list[GuardRow]:
    """The table of a bench's runs, in the order in which their cells first come, after the rows that are kept.

    Args:
        outcomes: of every seed.
        kept: rows of an earlier table. ``none`` and ``global_norm`` under each fault are there or among the outcomes,
            the runs of ``none`` without a fault are always among these.

    Raises:
        InputError: a run of ``none`` is given that ends elsewhere than its row says.
    """
    cells: dict[tuple[str, str, str], list[BenchRun]] = {}
    for one in outcomes:
        cells.setdefault((one.model, one.fault, one.guard), []).append(one)
    for runs in cells.values():
        runs.sort(key=lambda one: one.seed)
    finals = {key: tuple(_final(one) for one in runs) for key, runs in cells.items()}
    found = list(kept)
    for row in kept:
        key = (row.model, row.fault, row.guard)
        again, finals[key] = finals.get(key, row.final), row.final
        if any(abs(new - old) > TIE for new, old in zip(again, row.final, strict=True)):
            raise InputError(
                f"{row.model}, {row.fault}, {row.guard}: its seeds now end at {_said(again)} nats, the stored result "
                f"says {_said(row.final)}: all rows must be measured anew (--fresh)"
            )
    done = {(row.model, row.fault, row.guard) for row in kept}
    for (model, fault, guard), runs in cells.items():
        if (model, fault, guard) in done:
            continue
        final = finals[model, fault, guard]
        steps = len(runs[0].trace.losses)
        references = cells[model, "clean", NONE]
        planted, rise = FAULTS[fault].planted(steps), subject(model).rise
        found.append(
            GuardRow(
                model=model,
                fault=fault,
                guard=guard,
                final=final,
                lost=tuple(lost(loss, reference.looks) for loss, reference in zip(final, references, strict=True)),
                spikes=tuple(spikes(one.trace.losses, rise=rise, planted=planted) for one in runs),
                skipped=tuple(len(one.trace.skipped) for one in runs),
                clipped=tuple(one.trace.clipped for one in runs),
                against_none=compare(final, finals[model, fault, NONE]),
                against_usual=compare(final, finals[model, fault, USUAL]),
            )
        )
    return found


def lost(loss: float, looks: Sequence[tuple[int, float | None]]) -> int:
    """How many steps earlier a reference run had reached a loss; 0 when it never did, all of them when at once.

    Args:
        loss: held-out loss at the end of a run.
        looks: (steps taken, held-out loss) of the reference, by step, the last one at its end.
    """
    last = looks[-1][0]
    before: tuple[int, float] | None = None
    for step, value in looks:
        if value is None:
            continue
        if value <= loss:
            if before is None or before[1] <= value:
                return last - step
            share = (before[1] - loss) / (before[1] - value)
            return last - round(before[0] + share * (step - before[0]))
        if before is None or value < before[1]:
            before = (step, value)
    return 0


def by_guard(table: Sequence[GuardRow]) -> Mapping[str, list[GuardRow]]:
    """The rows of each guard, guards in the order of the table."""
    found: dict[str, list[GuardRow]] = {}
    for row in table:
        found.setdefault(row.guard, []).append(row)
    return found


def cell(table: Sequence[GuardRow], *, model: str, fault: str) -> list[GuardRow]:
    """The rows of one model under one fault."""
    return [row for row in table if (row.model, row.fault) == (model, fault)]


def _said(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses)


def _final(one: BenchRun) -> float:
    chance = subject(one.model).chance
    return chance if one.final is None else min(one.final, chance)
