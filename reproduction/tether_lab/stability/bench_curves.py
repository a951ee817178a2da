"""Curves of a bench: of every fault and model the first seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from tether.workflows.clipper_comparison.curves import LossCurves, curves
from tether_lab.stability.faults import FAULTS
from tether_lab.stability.guards import NONE, USUAL
from tether_lab.stability.runs import BenchRun


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
