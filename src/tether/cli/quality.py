"""``tether quality``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    model: Annotated[str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="The CSV file: rank, key, score, sharpness.")],
    head: Annotated[
        Path | None, typer.Option(help="The folder that tether adapt --recipe quality wrote; it is the model, too.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Own prompts, a good and a bad one in turn; once for each.")
    ] = None,
    grid: Annotated[int, typer.Option(min=1, help="Parts of a photo in each direction that are looked at.")] = 2,
    html: Annotated[Path | None, typer.Option(help="Also write a page with both ends of the order.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Photos of each end on the page.")] = 24,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Score photos by how good they are: CSV, the best first.

    Examples:
      tether quality photos/ --model judge --head judge --out quality.csv --html quality.html
      tether quality photos/ --model starter --prompt "a sharp photo" --prompt "a blurry photo" --out quality.csv
    """
    from functools import partial

    from tether.cli.screen import staged_bar
    from tether.workflows.quality import quality

    bad_rows = log_beside(out)
    outputs = {"--out": out, "--html": html, "--json": json}
    inputs: dict[str, object] = {"IMAGES": images}
    check_outputs(outputs, existing=existing, inputs=inputs, log=bad_rows)
    with staged_bar("photos") as on_stage:
        found = quality(
            images,
            model=model,
            head=head,
            prompts=prompt or None,
            grid=grid,
            shown=shown if html is not None else 0,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=partial(on_stage, "quality"),
        )
    found.save(out, raw_csv=raw_csv)
    if json is not None:
        put_json({"path": out, "rows": len(found.keys), "bad": found.bad, "trained": found.trained}, to=json)
    if json != STDOUT:
        say(f"{out}: {len(found.keys)} photos")
    for line in found.remarks():
        say(line, err=True)
    if html is not None:
        found.page(html)
        say(f"{html}: {sum(hit.image is not None for hit in found.hits)} photos", err=True)
    say_skipped(found.bad, bad_rows)
