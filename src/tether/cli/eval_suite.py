"""``tether eval MODEL... --suite FOLDER``: several models on a folder of test sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tether.cli.options import STDOUT, check_outputs, put_json
from tether.cli.say import say

if TYPE_CHECKING:
    from tether.workflows.suite import SuiteResult


def measure_suite(
    models: Sequence[str],
    folder: Path,
    *,
    out: Path | None,
    json: str | None,
    existing: str,
    alone: Sequence[str],
    measures: Sequence[str] | None,
    templates: Sequence[str] | None,
    batch_size: int,
    bootstrap: int,
    seed: int,
    workers: int,
    random_weights: bool,
    device: str,
) -> None:
    """Measure, print a table, and write what was asked for.

    Args:
        models: names.
        folder: of the suite.
        out: folder of the page and numbers.
        json: file for the numbers, or ``-``.
        existing: what to do about files that are there and not of an earlier call.
        alone: options that were given and mean nothing here.
        measures: see ``workflows.suite.suite``, as the other arguments.
        templates: prompts in place of the sets' own.
        batch_size: rows in one forward.
        bootstrap: draws.
        seed: of the draws.
        workers: threads that decode.
        random_weights: accept models without weights.
        device: where to load.
    """
    from tether.cli.screen import staged_bar
    from tether.workflows.suite import NUMBERS, PAGE, RESULT, SUITE_MEASURES, suite

    if alone:
        raise typer.BadParameter(f"{alone[0]} is for a SOURCE; with --suite every row of each test set counts")
    going_on = out is not None and (out / NUMBERS).is_dir()
    pages = {} if out is None or going_on else {"--out": out / PAGE, "--out (numbers)": out / RESULT}
    inputs = {"--suite": folder, "MODEL": list(models)}
    check_outputs({"--json": json} | pages, existing=existing, inputs=inputs)
    with staged_bar("embedding") as on_stage:
        found = suite(
            list(models),
            folder,
            measures=tuple(measures) if measures else SUITE_MEASURES,  # pyrefly: ignore - words are checked inside
            out=out,
            templates=templates,
            batch_size=batch_size,
            bootstrap=bootstrap,
            seed=seed,
            workers=workers,
            random_weights=random_weights,
            device=device,
            on_stage=on_stage,
        )
    if json != STDOUT:
        _show(found)
    for line in found.said():
        say(line, err=json == STDOUT)
    if out is not None:
        say(f"wrote {out / PAGE} and {out / RESULT}", err=True)
    if json is not None:
        put_json(found.plain(), to=json)


def _show(found: SuiteResult) -> None:
    from rich import box
    from rich.table import Table

    from tether.cli.screen import Screen

    table = Table(title=found.suite, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("test set", overflow="fold")
    table.add_column("number", no_wrap=True)
    for model in found.heads:
        table.add_column(model, justify="right", overflow="fold")
    table.add_column("chance", justify="right", style="dim")
    last = None
    for dataset, metric, cells, luck in found.rows():
        if last not in (None, dataset):
            table.add_section()
        shown = [f"{value}\n{ends}" if ends else value for value, ends in cells]
        table.add_row("" if dataset == last else dataset, metric, *shown, luck)
        last = dataset
    Screen().print(table)
