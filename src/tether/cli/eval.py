"""``tether eval``: how good is a model on a source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, check_new, put_json
from tether.cli.say import say


def command(
    model: Annotated[
        str, typer.Argument(help="A run or model folder, open_clip:ARCHITECTURE/WEIGHTS or hf:OWNER/NAME.")
    ],
    source: Annotated[
        str, typer.Argument(help="A data set by name (emoji:split=test), a folder or file, hf:OWNER/NAME.")
    ],
    json: Json = None,
    existing: Existing = "refuse",
    measure: Annotated[
        list[str] | None,
        typer.Option(help="retrieval, zero_shot, geometry or clip_score; repeat it for several (default: all)."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column that holds the class (default: 'label' if there).")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class name; repeat it for several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Look at this many rows only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 256,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95 % intervals; 0 leaves them out.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Allow a model without trained weights.")
    ] = False,
) -> None:
    """Measure a model on a source: retrieval, zero-shot, geometry, CLIPScore.

    Examples:
      tether eval runs/mine other-photos/
      tether eval open_clip:ViT-B-32/laion2b_s34b_b79k photos.csv --measure retrieval
      tether eval runs/mine other-photos/ --json mine.json
    """
    from tether import load
    from tether.cli.screen import bars
    from tether.core.geometry import check_finite
    from tether.data import open_source
    from tether.evaluate import evaluate
    from tether.evaluate.suite import MEASURES
    from tether.workflows.learnt import remark

    check_new(json, existing=existing, where="--json")
    beside = Path("eval" if json in (None, STDOUT) else str(json))
    bad = beside.with_name(f"{beside.stem}.bad_rows.jsonl")
    bad.unlink(missing_ok=True)
    rows = open_source(source, where="SOURCE")
    encoder = load(model, device=device, random_weights=random_weights)
    check_finite(encoder, where=model)
    sizes = [block.rows for block in rows.blocks()]
    total = None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)
    total = limit if total is None else min(total, limit or total)
    with bars() as bar:
        task = bar.add_task("embedding", total=total)
        result = evaluate(
            encoder,
            rows,
            measures=tuple(measure) if measure else MEASURES,  # pyrefly: ignore - words are checked inside
            label=label,
            templates=template,
            batch_size=batch_size,
            limit=limit,
            bootstrap=bootstrap,
            seed=seed,
            workers=workers,
            strict=strict,
            on_bad=bad,
            on_progress=lambda done, _: bar.update(task, completed=done),
        )
    if learnt := remark(model, rows):
        say(learnt, err=True)
    if json != STDOUT:
        _show(result, title=f"{model} on {source}")
    if bad.exists():
        from tether.data.bad_rows import named_in

        count = len(named_in(bad))
        say(f"{count} bad rows were skipped; {bad} names them", err=True)
    if json is not None:
        put_json({"model": model, "source": source, "version": rows.version, "limit": limit} | result, to=json)


def _show(result: dict[str, float], *, title: str) -> None:
    from rich import box
    from rich.table import Table

    from tether.cli.screen import Screen
    from tether.evaluate.metric_names import SECTIONS, chance_of, describe, interval_of, keys_of, shown

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("chance", justify="right", style="dim")
    if any(key.endswith("_low") for key in result):
        table.add_column("95 % interval", justify="right", style="dim")
    for prefixes in SECTIONS.values():
        keys = keys_of(result, prefixes)
        for key in keys:
            cells = [describe(key), shown(key, result[key]), chance_of(key, result), interval_of(key, result)]
            table.add_row(*cells[: len(table.columns)])
        if keys:
            table.add_section()
    Screen().print(table)
    say(f"{result['images']:,.0f} images, {result['texts']:,.0f} texts, {result['seconds']:.1f} s")
