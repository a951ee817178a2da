"""``tether rank``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    RandomWeights,
    RawCsv,
    Strict,
    check_outputs,
    log_beside,
    put_json,
)
from tether.cli.say import say, say_skipped


def command(
    images: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    model: Annotated[str, typer.Option(help="A run's folder, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="The CSV file: rank, key, score.")],
    by: Annotated[str | None, typer.Option(help="What the first images show most of, in words.")] = None,
    against: Annotated[str | None, typer.Option(help="Its opposite, in words: what the last images show.")] = None,
    examples: Annotated[
        str | None, typer.Option(help="Rated images; or a CSV file with the keys of IMAGES and their numbers.")
    ] = None,
    column: Annotated[str, typer.Option(help="Their column of numbers.")] = "score",
    with_: Annotated[
        Literal["ridge", "adapter"],
        typer.Option("--with", help="What learns from them: ridge (seconds), or the adapter besides (minutes)."),
    ] = "ridge",
    rows: Annotated[
        Literal["auto", "embedding", "patches"],
        typer.Option(help="What ridge regression reads; auto: the better on the examples."),
    ] = "auto",
    head: Annotated[
        Path | None, typer.Option(help="In place of examples: a head that tether adapt --recipe order made.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with both ends of the order.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Images of each end on the page.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the parts that are held out, and of training.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Order images by words, a few rated examples, or a trained head: CSV.

    Examples:
      tether rank photos/ --model starter --by "a damaged wall" --against "an intact wall" --out order.csv
      tether rank photos/ --model starter --by "how damaged" --examples rated.csv --column score --out order.csv
      tether rank photos/ --model starter --head mine --out order.csv --html order.html
    """
    from functools import partial

    from tether.cli.screen import staged_bar
    from tether.workflows.rank import rank

    bad_rows = log_beside(out)
    outputs = {"--out": out, "--html": html, "--json": json}
    inputs: dict[str, object] = {"IMAGES": images, "--examples": examples}
    check_outputs(outputs, existing=existing, inputs=inputs, log=bad_rows)
    with staged_bar("examples") as on_stage:
        found = rank(
            images,
            model=model,
            by=by,
            against=against,
            examples=examples,
            column=column,
            using=with_,
            rows=rows,
            head=head,
            seed=seed,
            shown=shown if html is not None else 0,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=partial(on_stage, "rank"),
            on_step=partial(on_stage, "train"),
        )
    found.save(out, raw_csv=raw_csv)
    if json is not None:
        told = {"path": out, "rows": len(found.order.keys), "bad": found.bad, "by": found.by, "used": found.used}
        put_json(told | {"correlations": found.correlations, "intervals": found.intervals}, to=json)
    if json != STDOUT:
        say(f"{out}: {len(found.order.keys)} images")
    for line in found.remarks():
        say(line, err=True)
    if html is not None:
        found.page(html)
        say(f"{html}: {sum(hit.image is not None for hit in found.hits)} images", err=True)
    say_skipped(found.bad, bad_rows)
