"""``tether embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, check_new, put_json
from tether.cli.say import say


def command(
    source: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    model: Annotated[str, typer.Option(help="A run's folder, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="FILE.parquet, or a folder for parts.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward.")] = 64,
    thumbnail: Annotated[int, typer.Option(min=0, help="Longest side of the JPEG kept beside each; 0 keeps none.")] = 0,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows of one part: the most a kill costs.")] = 256,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of the forward; auto takes bfloat16 where it is faster and gives the same vectors."),
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Accept a model without weights.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Turn images into vectors, resumable: Parquet with keys, captions and columns.

    Examples:
      tether embed photos/ --model starter --out photos.parquet
      tether embed photos/ --model runs/mine --thumbnail 128 --out photos.parquet
    """
    from dataclasses import asdict
    from typing import cast

    check_new(json, existing=existing, where="--json")

    import tether
    from tether.cli.screen import bars
    from tether.core.protocols import DualEncoder
    from tether.data import open_source
    from tether.models.precision import chosen_precision
    from tether.tasks.retrieve.embed import embed

    opened = open_source(source, where="SOURCE")
    loaded = cast(DualEncoder, tether.load(model, device=device, random_weights=random_weights))
    with bars() as progress:
        task = progress.add_task("embed", total=None)
        report = embed(
            opened,
            model=loaded,
            model_name=model,
            out=out,
            batch_size=batch_size,
            part_rows=part_rows,
            thumbnail=thumbnail or None,
            precision=chosen_precision(loaded, precision),
            workers=workers,
            strict=strict,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if json is not None:
        put_json(asdict(report), to=json)
    if json != STDOUT:
        say(f"{report.path}: {report.rows} images, {report.new} of them new; model digest {report.digest}")
    if report.bad:
        say(f"{report.bad} bad rows were skipped; {report.bad_rows} names them", err=True)
