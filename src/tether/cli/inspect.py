"""``tether inspect``: the health report of a model on pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, ModelName, RandomWeights, Strict, check_outputs, put_json
from tether.cli.say import say

if TYPE_CHECKING:
    from tether.evaluate.inspect.health_report import Report

ALARMED = 1


def command(
    model: ModelName,
    pairs: Annotated[str, typer.Option(help="A data set by name (emoji:split=test), a folder or file, hf:OWNER/NAME.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report (default: inspect-MODEL, named after the model).")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(help="A section by name, such as lettering; repeat it for several (default: all)."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows looked at, spread over the source.")] = 10_000,
    label: Annotated[str | None, typer.Option(help="Column that holds the class (default: 'label' if there).")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    strict: Strict = False,
    check: Annotated[bool, typer.Option("--check", help="End with code 1 when a section raises an alarm.")] = False,
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Inspect a model on pairs: a health report as one HTML page and JSON, resumable; a finding for each section.

    Examples:
      tether inspect runs/mine --pairs photos/
      tether inspect starter --pairs emoji:split=test --probe gap --probe lettering --out health
    """
    from typing import cast

    from tether import load
    from tether.cli.screen import bars
    from tether.core.atomic_io import read_json
    from tether.core.protocols import DualEncoder
    from tether.data import open_source
    from tether.evaluate.inspect.runner import inspect_model
    from tether.workflows.learnt import remark

    check_outputs({"--json": json}, existing=existing, inputs={"--pairs": pairs, "--out": out})
    rows = open_source(pairs, where="--pairs")
    if learnt := remark(model, rows):
        say(learnt, err=True)
    with bars() as bar:
        task = bar.add_task("loading the model", total=None)
        encoder = cast(DualEncoder, load(model, device=device, random_weights=random_weights))
        report = inspect_model(
            encoder,
            rows,
            out=out or Path(f"inspect-{_plain(model)}"),
            model_name=model,
            source_name=pairs,
            probes=probe,
            limit=limit,
            label=label,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            seed=seed,
            on_progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if json is not None:
        put_json(read_json(Path(report.numbers)), to=json)
    if json != STDOUT:
        _show(report)
    if check and report.alarms:
        say(f"tether: alarms: {', '.join(report.alarms)}", err=True)
        raise typer.Exit(ALARMED)


def _plain(model: str) -> str:
    """The last part of a model's name, fit for a folder."""
    last = model.rstrip("/").replace("\\", "/").rpartition("/")[2] or model
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in last)


def _show(report: Report) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tether.cli.screen import Screen

    styles = {"alarm": "bold red", "note": "yellow", "good": "green", "unknown": "dim"}
    table = Table(box=box.SIMPLE_HEAD, show_lines=False)
    table.add_column("section", style="bold")
    table.add_column("level")
    table.add_column("finding", overflow="fold")
    for section in report.sections:
        said = section.finding.sentence if section.finding else f"not told: {section.problem}"
        table.add_row(section.name, Text(section.level, style=styles[section.level]), said)
    Screen().print(table)
    say(report.page)
    say(report.numbers)
