"""The page of ``tether train --clipper compare``: every clipper beside the one of the recipe."""

from __future__ import annotations

from pathlib import Path

from tether.core.atomic_io import write_text
from tether.evaluate.html.curves import Chart, Line, Marks, chart, running_mean
from tether.evaluate.html.templates import render
from tether.evaluate.report.run_charts import Records, column, gradient_norm, skipped
from tether.evaluate.report.run_folder import read_records
from tether.train.compare import BEFORE, DEVIATIONS, RISE, Comparison
from tether.train.run_files import COMPARE, COMPARE_PAGE, METRICS


def write(folder: Path, found: Comparison) -> Path:
    """Write ``compare.html`` into a run's folder; returns its path.

    Args:
        folder: of the run, with the logs that ``compare`` left.
        found: what it gave.
    """
    logs: dict[str, Records] = {one.name: read_records(folder / COMPARE / one.name / METRICS) for one in found.seen}
    pairs = [(one.name, charts(one.name, logs[one.name], own=found.own, others=logs[found.own])) for one in found.seen]
    page = render(
        "compare.html.j2",
        package="tether.evaluate.report",
        name=folder.resolve().name,
        found=found,
        before=BEFORE,
        rise=f"{RISE:.0%}",
        deviations=f"{DEVIATIONS:g}",
        pairs=[(name, drawn) for name, drawn in pairs if drawn],
        chart_data=[one.data for _, drawn in pairs for one in drawn],
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
    loss = [Line(name, "main", running_mean(column(log, "loss")))]
    if name != own:
        loss.insert(0, Line(f"{own} (yours)", "second", running_mean(column(others, "loss"))))
    drawn = [
        chart("Loss, running mean", lines=loss, marks=[Marks("skipped step", "skipped", skipped(log))]),
        gradient_norm(log, limit="limit"),
    ]
    return [one for one in drawn if one is not None]
