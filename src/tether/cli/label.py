"""``tether label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, Strict, check_outputs, put_json
from tether.cli.say import say, say_skipped


def command(
    source: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the labels; what lies there is not made again.")],
    seg: Annotated[
        str | None,
        typer.Option(help="Who says the classes: a transformers model's folder, column:NAME, or files:FOLDER of PNGs."),
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help="Who says the depth: a transformers model's folder, or column:NAME.")
    ] = None,
    normal: Annotated[str | None, typer.Option(help="Who says the surface normals: column:NAME.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="How many, for column: and files:.")] = None,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of a pixel's likeliest class for a label.")
    ] = 0.5,
    gives: Annotated[
        Literal["distance", "inverse"], typer.Option(help="What the depth model gives; inverse: larger is nearer.")
    ] = "inverse",
    longest: Annotated[int, typer.Option(min=1, help="Pixels of the longer side of a model's labels, at most.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows, from the first.")] = None,
    device: Device = "auto",
    strict: Strict = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Label every pixel by expert models, resumable: classes, depth and surface normals for `tether train`.

    Examples:
      tether label photos/ --seg segformer/ --depth depth-anything/ --out labels/
      tether label camvid/images --seg files:camvid/masks --classes 12 --out labels/
    """
    from dataclasses import asdict

    from tether.cli.screen import bar
    from tether.workflows.label import label

    check_outputs({"--json": json}, existing=existing, inputs={"SOURCE": source, "--out": out})
    with bar("label") as on_progress:
        done = label(
            source,
            out=out,
            seg=seg,
            depth=depth,
            normal=normal,
            classes=classes,
            confidence=confidence,
            gives=gives,
            longest=longest,
            limit=limit,
            strict=strict,
            device=device,
            on_progress=on_progress,
        )
    if json is not None:
        put_json(asdict(done), to=json)
    if json != STDOUT:
        say(f"{done.folder}: labels of {done.rows} images, {done.new} of them new")
        for task, expert in done.experts.items():
            said = "" if expert.classes is None else f", {expert.classes} classes"
            say(f"  {task}: {expert.name}{f' {expert.version}' if expert.version else ''}{said}")
    say_skipped(done.bad, done.folder / "bad_rows.jsonl")
