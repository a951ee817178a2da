"""``tether mine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, RandomWeights, check_outputs, put_json
from tether.cli.say import say


def command(
    source: Annotated[
        str, typer.Argument(help="Images with several captions each, or text_pairs:path=FILE (.jsonl, .csv, .parquet).")
    ],
    model: Annotated[str, typer.Option(help="A run's folder, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="FILE.jsonl, which the source text_pairs reads.")],
    negatives: Annotated[int, typer.Option(min=1, help="Hard negatives of each query.")] = 7,
    skip_top: Annotated[int, typer.Option(min=0, help="Leave out so many of the nearest texts of other rows.")] = 1,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Least distance of a negative's cosine below the positive's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in one forward.")] = 256,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Find hard negatives for text pairs: texts that a model finds near, but that belong to another row.

    Examples:
      tether mine split:source=photos/,part=train --model starter --out pairs.jsonl
      tether mine text_pairs:path=questions.csv --model runs/mine --margin 0.05 --out pairs.jsonl
    """
    from dataclasses import asdict

    from tether.cli.screen import bar
    from tether.workflows.mine import mine

    check_outputs({"--json": json, "--out": out}, existing=existing, inputs={"SOURCE": source})
    with bar("embed") as on_progress:
        done = mine(
            source,
            model=model,
            out=out,
            negatives=negatives,
            skip_top=skip_top,
            margin=margin,
            batch_size=batch_size,
            random_weights=random_weights,
            device=device,
            on_progress=on_progress,
        )
    if json is not None:
        put_json(asdict(done) | {"path": str(done.path)}, to=json)
    if json != STDOUT:
        say(f"{done.path}: {done.pairs} pairs of {done.groups} rows, each with {done.negatives} hard negatives")
        say(done.line())
    if done.left_out:
        say(f"{done.left_out} rows gave no pair: fewer than two different captions", err=True)
