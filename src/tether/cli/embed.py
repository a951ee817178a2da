"""``tether embed``."""

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
    Strict,
    check_outputs,
    log_beside,
    put_json,
)
from tether.cli.say import say, say_skipped


def command(
    source: Annotated[
        str,
        typer.Argument(help="A folder, .parquet, .csv or .tar, a pattern or manifest of them, or a data set."),
    ],
    model: Annotated[str, typer.Option(help="A run's folder, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[
        str, typer.Option(help="FILE.parquet, or a folder for parts; or a URL such as s3://bucket/FILE.parquet.")
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward.")] = 64,
    thumbnail: Annotated[int, typer.Option(min=0, help="Longest side of the JPEG kept beside each; 0 keeps none.")] = 0,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows of one part: the most a kill costs.")] = 256,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of the forward; auto takes bfloat16 where it is faster and gives the same vectors."),
    ] = "auto",
    dims: Annotated[
        int | None, typer.Option(min=1, help="Keep the first so many numbers of each vector (default: all).")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that decode ahead (1); with --engine ray processes (all there is room for)."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Who embeds: this process, or workers of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a running Ray cluster: HOST:PORT or auto; without it one is started here.", metavar="HOST:PORT"
        ),
    ] = None,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Turn images into vectors, resumable: Parquet with keys, captions and columns.

    Examples:
      tether embed photos/ --model starter --out photos.parquet
      tether embed photos/ --model runs/mine --thumbnail 128 --out photos.parquet
      tether embed photos/ --model runs/mine --engine ray --workers 4 --out photos.parquet
    """
    from dataclasses import asdict

    from tether.cli.screen import bar
    from tether.workflows.embed import embed

    place = Path(out)
    log = log_beside(place) if place.suffix == ".parquet" else place / "bad_rows.jsonl"
    check_outputs(
        {"--json": json}, existing=existing, inputs={"SOURCE": source, "--out": out}, log=None if "://" in out else log
    )
    with bar("embed") as on_progress:
        done = embed(
            source,
            model=model,
            out=out,
            batch_size=batch_size,
            part_rows=part_rows,
            thumbnail=thumbnail or None,
            precision=precision,
            dims=dims,
            workers=workers,
            engine=engine,
            address=address,
            strict=strict,
            random_weights=random_weights,
            device=device,
            on_progress=on_progress,
        )
    if json is not None:
        put_json(asdict(done), to=json)
    if json != STDOUT:
        say(f"{done.path}: {done.rows} images, {done.new} of them new; model digest {done.digest}")
    say_skipped(done.bad, done.bad_rows)
