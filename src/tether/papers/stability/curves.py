"""Curves of trainings: the loss beside that of others, and the gradient norm with the limit that met it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tether.evaluate.html.curves import Chart, Kind, Line, Marks, chart, running_mean
from tether.papers.stability.faults import FAULTS
from tether.papers.stability.guards import NONE, USUAL
from tether.papers.stability.runs import BenchRun
from tether.papers.stability.trace import RunTrace

BESIDE: tuple[Kind, ...] = ("second", "limit")


@dataclass(frozen=True, slots=True)
class LossCurves:
    """Charts under one heading.

    Attributes:
        title: the heading.
        says: a remark beside it, or the empty string.
        charts: loss and gradient norm; fewer where there is nothing to draw.
        group: which figure of the guide they belong to: a model's name.
    """

    title: str
    says: str
    charts: tuple[Chart, ...]
    group: str = ""


def curves(
    title: str,
    trace: RunTrace,
    *,
    name: str,
    beside: Mapping[str, RunTrace],
    planted: Sequence[int] = (),
    says: str = "",
    group: str = "",
) -> LossCurves:
    """Two charts of one training.

    Args:
        title: above them.
        trace: of the training.
        name: of its guard.
        beside: others, at most two, to draw the loss of; of the first the norm is drawn too.
        planted: steps at which the loss was spoiled on purpose: their own loss is left out.
        says: see ``LossCurves``.
        group: see ``LossCurves``.
    """
    lines = [
        Line(label, kind, _smooth(other, planted)) for (label, other), kind in zip(beside.items(), BESIDE, strict=False)
    ]
    lines.append(Line(name, "main", _smooth(trace, planted)))
    at = dict(lines[-1].points)
    skipped = [(step, None) for step in trace.skipped]
    faults = [(step, at.get(step)) for step in planted]
    norms = dict(enumerate(trace.norms))
    clipped = [
        (step, norms[step])
        for step, scale in enumerate(trace.scales)
        if scale < 1 and norms[step] is not None and step not in trace.skipped
    ]
    drawn = (
        chart(
            "Loss, running mean",
            lines=lines,
            marks=[Marks("skipped step", "skipped", skipped), Marks("fault", "skipped", faults)],
        ),
        chart(
            f"Gradient norm under {name}",
            lines=[
                *(Line(label, "second", list(enumerate(other.norms))) for label, other in list(beside.items())[:1]),
                Line("norm", "main", list(enumerate(trace.norms))),
                Line("limit", "limit", list(enumerate(trace.thresholds))),
            ],
            marks=[Marks("clipped", "clipped", clipped), Marks("skipped", "skipped", skipped)],
            scale="log",
        ),
    )
    return LossCurves(title, says, tuple(one for one in drawn if one is not None), group)


def bench_curves(outcomes: Sequence[BenchRun], *, kinds: Mapping[str, str]) -> list[LossCurves]:
    """The first seed of every fault and model: no guard, the usual clipper, and the best of the other clippers.

    Args:
        outcomes: of a bench; without any there are no curves.
        kinds: ``clipper`` or ``optimizer`` for each guard.
    """
    first = min((one.seed for one in outcomes), default=0)
    found = []
    for model, fault in dict.fromkeys((one.model, one.fault) for one in outcomes):
        cell = [one for one in outcomes if (one.model, one.fault) == (model, fault)]
        shown = _best(cell, kinds)
        traces = {one.guard: one.trace for one in cell if one.seed == first}
        found.append(
            curves(
                f"{model}, {fault}",
                traces[shown],
                name=shown,
                beside={name: traces[name] for name in (NONE, USUAL) if name != shown},
                planted=FAULTS[fault].planted(len(traces[NONE].losses)),
                says=FAULTS[fault].says,
                group=model,
            )
        )
    return found


def _best(cell: Sequence[BenchRun], kinds: Mapping[str, str]) -> str:
    """The clipper with the lowest mean final loss besides the two that are always drawn; else the usual one."""
    finals: dict[str, list[float]] = {}
    for one in cell:
        if kinds[one.guard] == "clipper" and one.guard not in (NONE, USUAL):
            finals.setdefault(one.guard, []).append(float("inf") if one.final is None else one.final)
    return min(finals, key=lambda name: statistics.fmean(finals[name])) if finals else USUAL


def _smooth(trace: RunTrace, planted: Sequence[int]) -> list[tuple[float, float | None]]:
    return running_mean([(step, loss) for step, loss in enumerate(trace.losses) if step not in planted])
