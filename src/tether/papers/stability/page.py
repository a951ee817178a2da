"""The bench's page: one HTML file of the report's look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tether.evaluate.html.templates import render
from tether.papers.stability.advice import Standing, advice, standings
from tether.papers.stability.charts import Pair, pairs
from tether.papers.stability.guards import NONE, USUAL
from tether.papers.stability.result import costs_of, table_of
from tether.papers.stability.runs import BenchRun
from tether.papers.stability.table import Difference, cell
from tether.papers.stability.words import counts, scale, setting_rows


def page(found: Mapping[str, Any], outcomes: Sequence[BenchRun] = ()) -> str:
    """The whole page.

    Args:
        found: a result.
        outcomes: its runs, for the curves; without them the page has none.
    """
    table, kinds = table_of(found), {name: guard["kind"] for name, guard in found["guards"].items()}
    costs = costs_of(found)
    ranking = standings(table, kinds=kinds, costs=costs)
    drawn = pairs(outcomes, kinds=kinds) if outcomes else []
    return render(
        "stability.html.j2",
        package="tether.papers.stability",
        scale=scale(found),
        highlights=_highlights(ranking),
        advice=advice(table, kinds=kinds, costs=costs),
        standings=ranking,
        counts=counts,
        usual=(NONE, USUAL),
        models=[{"name": name, **model} for name, model in found["models"].items()],
        faults=list(found["faults"]),
        guards=list(found["guards"]),
        cells={(row.model, row.fault, row.guard): row for row in table},
        said=said,
        pairs=drawn,
        chart_data=_chart_data(drawn),
        details=[
            (model, fault, says, cell(table, model=model, fault=fault))
            for model in found["models"]
            for fault, says in found["faults"].items()
        ],
        rules=found["rules"],
        settings=setting_rows(found),
    )


def said(difference: Difference) -> str:
    """``better by 0.32 [0.25, 0.39]``; of a guard compared with itself, a dash."""
    if difference.mean == difference.low == difference.high == 0:
        return "equal"
    return f"{difference.word}, {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _highlights(ranking: Sequence[Standing]) -> list[tuple[str, str, str]]:
    by_name = {one.guard: one for one in ranking}
    clippers = [one for one in ranking if one.kind == "clipper"]
    found = [
        (f"{by_name[name].harm:+.2f}", f"nats lost to faults, {words}", f"{by_name[name].lost:.0f} steps a run")
        for name, words in ((NONE, "no guard"), (USUAL, "global_norm"))
    ]
    best = clippers[0]
    found.append((f"{best.harm:+.2f}", f"the least of any clipper, {best.guard}", f"{best.lost:.0f} steps a run"))
    optimizers = [one for one in ranking if one.kind == "optimizer"]
    if optimizers:
        first = optimizers[0]
        found.append((f"{first.harm:+.2f}", f"of any optimiser, {first.guard}", f"{first.lost:.0f} steps a run"))
    return found


def _chart_data(drawn: Sequence[Pair]) -> list[dict[str, Any]]:
    return [one.data for pair in drawn for one in (pair.loss, pair.norm)]
