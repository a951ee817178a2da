"""``tether eval``: how good is a model on a source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    LongText,
    ModelName,
    RandomWeights,
    Strict,
    check_outputs,
    log_beside,
    missing,
    put_json,
)
from tether.cli.say import say, say_skipped

if TYPE_CHECKING:
    from tether.workflows.evaluate import Evaluated


def command(
    context: typer.Context,
    model: ModelName,
    source: Annotated[
        str | None,
        typer.Argument(
            help="A data set by name (emoji:split=test), a folder or file, hf:OWNER/NAME; with --suite a further model."
        ),
    ] = None,
    others: Annotated[list[str] | None, typer.Argument(help="With --suite: further models.")] = None,
    suite: Annotated[
        Path | None,
        typer.Option(help="Instead of SOURCE: a folder of test sets as clip_benchmark, SugarCrepe... have them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --suite: folder for the page and all numbers; resumable.", metavar="DIR")
    ] = None,
    json: Json = None,
    existing: Existing = "refuse",
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="retrieval, zero_shot, geometry, clip_score (default: these) or text_retrieval, among the captions of "
            "one image; repeat it for several. With --suite: zero_shot, retrieval, choice (default: these), "
            "linear_probe."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column that holds the class (default: 'label' if there).")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class name; repeat it for several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Look at this many rows only.")] = None,
    dims: Annotated[
        int | None, typer.Option(min=1, help="Compare the first so many numbers of each embedding (default: all).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 256,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95 % intervals; 0 leaves them out.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    long_text: LongText = "cut",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    strict: Strict = False,
    random_weights: RandomWeights = False,
) -> None:
    """Measure a model on a source: retrieval, zero-shot, geometry, CLIPScore.

    Examples:
      tether eval runs/mine other-photos/
      tether eval open_clip:ViT-B-32/laion2b_s34b_b79k photos.csv --measure retrieval
      tether eval runs/mine other-photos/ --json mine.json
      tether eval runs/mine runs/other --suite suite/ --out compared
    """
    if suite is not None:
        from tether.cli.eval_suite import measure_suite

        alone = {"--label": label, "--limit": limit, "--dims": dims}
        measure_suite(
            [model, *filter(None, [source]), *(others or [])],
            suite,
            out=out,
            json=json,
            existing=existing,
            alone=[name for name, value in alone.items() if value is not None],
            measures=measure,
            templates=template,
            batch_size=batch_size,
            bootstrap=bootstrap,
            seed=seed,
            workers=workers,
            random_weights=random_weights,
            device=device,
        )
        return
    if source is None:
        raise missing(context, "source")
    if others or out is not None:
        raise typer.BadParameter(
            f"unexpected extra argument ({others[0]}); several models need --suite FOLDER"
            if others
            else "--out is for --suite FOLDER; numbers of one source go to --json FILE.json"
        )
    from tether.cli.screen import bar
    from tether.evaluate.suite import MEASURES
    from tether.workflows.evaluate import evaluate

    bad_rows = log_beside(Path("eval" if json in (None, STDOUT) else str(json)))
    check_outputs({"--json": json}, existing=existing, inputs={"SOURCE": source}, log=bad_rows)
    with bar("embedding") as on_progress:
        found = evaluate(
            model,
            source,
            measures=tuple(measure) if measure else MEASURES,  # pyrefly: ignore - words are checked inside
            label=label,
            templates=template,
            limit=limit,
            dims=dims,
            batch_size=batch_size,
            bootstrap=bootstrap,
            seed=seed,
            long_text=long_text,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=on_progress,
        )
    if found.remark:
        say(found.remark, err=True)
    if json != STDOUT:
        _show(found, title=f"{model} on {source}")
    say_skipped(found.bad, bad_rows)
    if json is not None:
        about = {"model": model, "source": source, "version": found.version, "digest": found.digest}
        about |= {"limit": limit, "dims": dims}
        put_json(about | dict(found.metrics), to=json)


def _show(found: Evaluated, *, title: str) -> None:
    from rich import box
    from rich.table import Table

    from tether.cli.screen import Screen

    sections = found.sections()
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("chance", justify="right", style="dim")
    if any(ends for rows in sections for *_, ends in rows):
        table.add_column("95 % interval", justify="right", style="dim")
    for rows in filter(None, sections):
        for row in rows:
            table.add_row(*row[: len(table.columns)])
        table.add_section()
    Screen().print(table)
    metrics = found.metrics
    say(f"{metrics['images']:,.0f} images, {metrics['texts']:,.0f} texts, {metrics['seconds']:.1f} s")
