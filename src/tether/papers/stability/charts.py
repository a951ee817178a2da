"""Curves of the first seed: the loss under each fault, and the gradient norm with the limit that met it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tether.evaluate.html.curves import Chart, Line, Marks, chart
from tether.papers.stability.faults import FAULTS
from tether.papers.stability.guards import NONE, USUAL
from tether.papers.stability.runs import BenchRun

_SMOOTH = 5  # steps of the running median of a loss, planted steps left out


@dataclass(frozen=True, slots=True)
class Pair:
    """Two charts of one model under one fault.

    Attributes:
        model: name of the subject.
        fault: name of the fault.
        says: what the fault is.
        shown: the clipper drawn beside ``none`` and ``global_norm``.
        loss: training loss of the three.
        norm: gradient norm under ``shown``, with its limit.
    """

    model: str
    fault: str
    says: str
    shown: str
    loss: Chart
    norm: Chart


def pairs(outcomes: Sequence[BenchRun], *, kinds: Mapping[str, str]) -> list[Pair]:
    """Charts of every fault and model that the outcomes hold; of the clippers the best of that cell is drawn.

    Args:
        outcomes: of a bench.
        kinds: ``clipper`` or ``optimizer`` for each guard.
    """
    first = min(one.seed for one in outcomes)
    found = []
    for model, fault in dict.fromkeys((one.model, one.fault) for one in outcomes):
        cell = [one for one in outcomes if (one.model, one.fault) == (model, fault)]
        shown = _best(cell, kinds)
        runs = {one.guard: one for one in cell if one.seed == first}
        loss, norm = _loss(runs, shown), _norm(runs[shown], runs[NONE])
        if loss is not None and norm is not None:
            found.append(Pair(model, fault, FAULTS[fault].says, shown, loss, norm))
    return found


def _best(cell: Sequence[BenchRun], kinds: Mapping[str, str]) -> str:
    """The clipper with the lowest mean final loss besides the two that are always drawn; else the usual one."""
    finals: dict[str, list[float]] = {}
    for one in cell:
        if kinds[one.guard] == "clipper" and one.guard not in (NONE, USUAL):
            finals.setdefault(one.guard, []).append(float("inf") if one.final is None else one.final)
    return min(finals, key=lambda name: statistics.fmean(finals[name])) if finals else USUAL


def _loss(runs: Mapping[str, BenchRun], shown: str) -> Chart | None:
    planted = FAULTS[runs[NONE].fault].planted(len(runs[NONE].losses))
    lines = [
        Line(name, kind, _smooth(runs[name].losses, planted))
        for name, kind in ((NONE, "second"), (USUAL, "limit"), (shown, "main"))
        if name != USUAL or shown != USUAL
    ]
    curve = dict(lines[-1].points)
    marks = [Marks("fault", "skipped", [(step, curve.get(step)) for step in planted])]
    return chart("Loss, running median", lines=lines, marks=marks)


def _norm(run: BenchRun, none: BenchRun) -> Chart | None:
    clipped = [
        (step, norm)
        for step, (norm, scale) in enumerate(zip(run.norms, run.scales, strict=True))
        if scale < 1 and norm is not None
    ]
    return chart(
        f"Gradient norm under {run.guard}",
        lines=[
            Line("without a guard", "second", list(enumerate(none.norms))),
            Line("norm", "main", list(enumerate(run.norms))),
            Line("limit", "limit", list(enumerate(run.thresholds))),
        ],
        marks=[Marks("clipped", "clipped", clipped)],
        scale="log",
    )


def _smooth(losses: Sequence[float | None], planted: Sequence[int]) -> list[tuple[float, float | None]]:
    """Median of the steps around each one; planted steps say what was planted, not what became of the model."""
    places, half = set(planted), _SMOOTH // 2
    smooth: list[tuple[float, float | None]] = []
    for step in range(len(losses)):
        around = [
            value
            for near in range(max(0, step - half), min(len(losses), step + half + 1))
            if near not in places and (value := losses[near]) is not None
        ]
        smooth.append((step, statistics.median(around) if around else None))
    return smooth
