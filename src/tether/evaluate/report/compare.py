"""The page of ``tether train --clipper compare``: every clipper beside the one of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_text
from tether.evaluate.report.curves import Chart, Line, Marks, chart, running_mean
from tether.evaluate.report.run_folder import read_records
from tether.evaluate.report.templates import environment
from tether.train.compare import BEFORE, DEVIATIONS, RISE, Comparison
from tether.train.run_files import COMPARE, COMPARE_PAGE, METRICS

Records = Sequence[Mapping[str, Any]]


def write(folder: Path, found: Comparison) -> Path:
    """Write ``compare.html`` into a run's folder; returns its path.

    Args:
        folder: of the run, with the logs that ``compare`` left.
        found: what it gave.
    """
    logs: dict[str, Records] = {one.name: read_records(folder / COMPARE / one.name / METRICS) for one in found.seen}
    pairs = [(one.name, charts(one.name, logs[one.name], own=found.own, others=logs[found.own])) for one in found.seen]
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            name=folder.resolve().name,
            found=found,
            before=BEFORE,
            rise=f"{RISE:.0%}",
            deviations=f"{DEVIATIONS:g}",
            pairs=[(name, drawn) for name, drawn in pairs if drawn],
            chart_data=[one.data for _, drawn in pairs for one in drawn],
        )
    )
    write_text(folder / COMPARE_PAGE, page)
    return folder / COMPARE_PAGE


def charts(name: str, log: Records, *, own: str, others: Records) -> list[Chart]:
    """Loss beside that of the recipe's clipper, and gradient norm with its limit.

    Args:
        name: of the clipper.
        log: its records.
        own: name of the recipe's clipper.
        others: the records of that.
    """
    loss = [Line(name, "main", running_mean(_column(log, "loss")))]
    if name != own:
        loss.insert(0, Line(f"{own} (yours)", "second", running_mean(_column(others, "loss"))))
    clipped = [
        (record["step"], record.get("grad_norm"))
        for record in log
        if not record.get("skipped") and (record.get("grad_scale") or 1.0) < 1
    ]
    skipped = [(record["step"], None) for record in log if record.get("skipped")]
    drawn = [
        chart("Loss, running mean", lines=loss, marks=[Marks("skipped step", "skipped", skipped)]),
        chart(
            "Gradient norm",
            lines=[
                Line("norm", "main", _column(log, "grad_norm")),
                Line("limit", "limit", _column(log, "grad_threshold")),
            ],
            marks=[Marks("clipped", "clipped", clipped), Marks("skipped", "skipped", skipped)],
            scale="log",
        ),
    ]
    return [one for one in drawn if one is not None]


def _column(log: Records, name: str) -> list[tuple[float, float | None]]:
    return [(record["step"], record.get(name)) for record in log]
