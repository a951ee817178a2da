"""``tether read``."""

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
    out: Annotated[Path, typer.Option(help="The CSV file: key, text, confidence.")],
    head: Annotated[Path | None, typer.Option(help="The folder that tether adapt --recipe read wrote.")] = None,
    with_: Annotated[str | None, typer.Option("--with", help="In place of --head: rapidocr, which is trained.")] = None,
    regions: Annotated[
        str | None,
        typer.Option(help="Boxes in whole images: a table of key, x0, y0, x1, y1, or rapidocr, which finds lines."),
    ] = None,
    region_unit: Annotated[
        str | None, typer.Option(help="Of the boxes: pixel or share (default: by their column unit, or the numbers).")
    ] = None,
    scene: Annotated[
        bool, typer.Option("--scene", help="Look at the whole image besides each box; see --model.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="With --scene: the model that tether adapt --recipe read_scene was given.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Images are whole pages or photos, for rapidocr or a reader of read-page.")
    ] = False,
    words: Annotated[
        str | None, typer.Option(help="Known words (.txt, .csv, .parquet): tell the nearest beside each text.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with captions, or a column text of the boxes: share read right.")
    ] = False,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", help="Capitals count as small letters where texts are compared.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with images beside what was read.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Texts on the page, at most, the least sure first.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Read the words in images: CSV and a page.

    Examples:
      tether read crops/ --with rapidocr --out words.csv --html words.html
      tether read crops/ --head reader --words products.txt --out words.csv
      tether read scans/ --page --with rapidocr --out pages.csv --html pages.html
      tether read photos/ --regions rapidocr --with rapidocr --out lines.csv
      tether read scans/ --page --head page-reader --out pages.csv
      tether read photos/ --regions boxes.csv --head reader --scene --model starter --out words.csv
    """
    from dataclasses import asdict
    from functools import partial

    from tether.cli.screen import staged_bar
    from tether.core.errors import InputError
    from tether.workflows.read import read

    bad_rows = log_beside(out)
    outputs = {"--out": out, "--html": html, "--json": json}
    inputs: dict[str, object] = {"IMAGES": images, "--words": words, "--regions": regions}
    check_outputs(outputs, existing=existing, inputs=inputs, log=bad_rows)
    if region_unit not in (None, "pixel", "share"):
        raise InputError(f"--region-unit: expected pixel or share, got {region_unit!r}")
    with staged_bar("images") as on_stage:
        found = read(
            images,
            head=head,
            using=with_,
            model=model,
            regions=regions,
            region_unit=region_unit,  # pyrefly: ignore  # one of both
            scene=scene,
            page=page,
            words=words,
            compare=compare,
            ignore_case=ignore_case,
            shown=shown if html is not None else 0,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=partial(on_stage, "read"),
        )
    found.save(out, raw_csv=raw_csv)
    if html is not None:
        found.page(html)
    if json is not None:
        scores = found.scores and asdict(found.scores)
        put_json({"path": out, "rows": len(found.keys), "bad": found.bad, "scores": scores}, to=json)
    if json != STDOUT:
        say(f"{out}: {len(found.keys)} texts")
    for line in found.remarks():
        say(line, err=True)
    if html is not None:
        say(f"{html}: {len(found.shown)} images", err=True)
    say_skipped(found.bad, bad_rows)
