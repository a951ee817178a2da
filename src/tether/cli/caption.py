"""``tether caption``."""

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
    source: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    model: Annotated[str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="The CSV file.")],
    captioner: Annotated[
        Path | None, typer.Option(help="What tether adapt --recipe caption_from_texts made on this model.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="In place of --captioner: sentences, of which the nearest is taken (.txt, .csv, .parquet)."),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Captions written for each image; the nearest is taken.")] = 1,
    rerank: Annotated[bool, typer.Option(help="Take the candidate nearest to the image, or the first.")] = True,
    sample: Annotated[bool, typer.Option("--sample", help="Draw words by chance in place of the likeliest.")] = False,
    longest: Annotated[int, typer.Option(min=1, help="Most tokens of a caption.")] = 32,
    shortest: Annotated[int, typer.Option(min=0, help="Least tokens of a caption.")] = 0,
    tone: Annotated[str, typer.Option(help='Words before each caption, such as "a poem about".')] = "",
    regions: Annotated[int, typer.Option(min=0, help="Parts of the image that are told beside it; MacCap: 10.")] = 0,
    gap: Annotated[
        Literal["noise", "shift", "both", "none"],
        typer.Option(help="How images come to where texts lie: noise, or the shift of their means."),
    ] = "noise",
    judge: Annotated[str | None, typer.Option(help="Another model that scores each caption: a column judge.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the images.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise and sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Write a caption of each image, or find the nearest of given sentences: CSV and a page.

    Examples:
      tether caption photos/ --model starter --captioner captioner --candidates 5 --out captions.csv
      tether caption photos/ --model starter --texts texts.csv --out captions.csv --html captions.html
    """
    from functools import partial

    from tether.cli.screen import staged_bar
    from tether.workflows.caption import caption

    bad_rows = log_beside(out)
    outputs = {"--out": out, "--html": html, "--json": json}
    inputs: dict[str, object] = {"SOURCE": source, "--texts": texts}
    check_outputs(outputs, existing=existing, inputs=inputs, log=bad_rows)
    with staged_bar("caption") as on_stage:
        found = caption(
            source,
            model=model,
            captioner=captioner,
            texts=texts,
            candidates=candidates,
            rerank=rerank,
            sample=sample,
            longest=longest,
            shortest=shortest,
            tone=tone,
            regions=regions,
            gap=gap,
            judge=judge,
            thumbnails=html is not None,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=partial(on_stage, "caption"),
            on_stage=on_stage,
        )
    found.save(out, raw_csv=raw_csv)
    if html is not None:
        found.gallery(html)
    if json is not None:
        put_json({"path": out, "rows": len(found.keys), "bad": found.bad, "bad_rows": bad_rows}, to=json)
    if json != STDOUT:
        say(f"{out}: {len(found.keys)} captions")
    for line in found.remarks:
        say(line, err=True)
    say_skipped(found.bad, bad_rows)
