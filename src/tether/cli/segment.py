"""``tether segment``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, RandomWeights, RawCsv, Strict, check_outputs, put_json
from tether.cli.say import say, say_skipped


def command(
    images: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    model: Annotated[str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    classes: Annotated[
        str, typer.Option(help='Two or more names as "road,car,sky", or a text file with one on each line.')
    ],
    out: Annotated[Path, typer.Option(help="The folder: a PNG of each image, masks.json (COCO), areas.csv.")],
    with_: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="tokens, values, dinoiser, excel or ovseg, with settings as values:least=0.3; mta, maft with --head; "
            "default: what --head is for, else values where the image tower is a transformer.",
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a head that tether adapt made on this model by grouping, relation, mask-text or mask-aware."
        ),
    ] = None,
    sharpen: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a sharpener that tether adapt --recipe sharpen made: finer maps, at five times the cost."
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help='Words for all else, as "wall,ground": adds the class background.')
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help='name, photo, photos, drawings, "a map of {}", or a file of such sentences.')
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels of the short side when looked at; default: the model's.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of the windows; default: the model's. Positions are resized.")
    ] = None,
    stride: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Between windows, as a share of them; default: 0.5.")
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Of the size, averaged, as 1,0.5,1.5.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Also look at each window mirrored.")] = None,
    fit: Annotated[
        Literal["windows", "whole"] | None, typer.Option(help="windows, or the whole image squashed to one.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A folder of PNGs with true class numbers: report mIoU and boundary F1.")
    ] = None,
    no_class: Annotated[
        int, typer.Option(min=0, max=255, help="The value in labels that is no class; classes are counted without it.")
    ] = 255,
    tolerance: Annotated[int, typer.Option(min=0, max=50, help="Pixels that a boundary may be off.")] = 2,
    boxes: Annotated[bool, typer.Option("--boxes", help="Also write boxes.csv.")] = False,
    min_area: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the image from which on a piece has a box.")
    ] = 0.001,
    palette: Annotated[
        str | None,
        typer.Option(help="A colour for each class, as #rrggbb,#rrggbb; default: some for every eye."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the masks over the images.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Images on the page, at most.")] = 60,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Find the class of each pixel from class names: masks, areas, boxes, a page.

    A second run of the same command resumes the first, and writes its page and JSON again.

    Examples:
      tether segment photos/ --model starter --classes "road,car,sky" --out masks --html seg.html
      tether segment photos/ --model starter --classes names.txt --labels truth/ --boxes --size 448 --out masks
    """
    from dataclasses import asdict

    from tether.cli.screen import bar
    from tether.core.atomic_io import local
    from tether.data.mask_files import COCO_FILE
    from tether.workflows.segment import segment

    again = (local(out) / COCO_FILE).is_file()  # masks of other settings are refused before a page is replaced
    bad_rows = Path(f"{local(out)}.bad_rows.jsonl")
    outputs = {"--html": html, "--json": json}
    inputs: dict[str, object] = {"IMAGES": images, "--out": out, "--classes": classes, "--labels": labels}
    inputs |= {"--templates": templates, "--palette": palette}
    check_outputs(outputs, existing="replace" if again else existing, inputs=inputs, log=bad_rows)
    given: dict[str, object] = {"size": size, "window": window, "stride": stride, "flip": flip, "fit": fit}
    given["scales"] = None if scales is None else [part.strip() for part in scales.split(",")]
    with bar("segment") as on_progress:
        found = segment(
            images,
            classes,
            model=model,
            out=out,
            using=with_,
            head=head,
            sharpen=sharpen,
            background=background,
            templates=templates,
            windows={name: value for name, value in given.items() if value is not None},
            labels=labels,
            no_class=no_class,
            tolerance=tolerance,
            boxes=boxes,
            min_area=min_area,
            palette=palette,
            shown=shown if html is not None else 0,
            replace_masks=existing == "replace",
            raw_csv=raw_csv,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=on_progress,
        )
    if json is not None:
        told = {"path": out, "images": len(found.keys), "kept": found.kept, "bad": found.bad, "method": found.method}
        measured = {
            "report": found.report and asdict(found.report),
            "one_class": found.one_class and asdict(found.one_class),
        }
        put_json(told | {"areas": found.mean_areas()} | measured, to=json)
    if json != STDOUT:
        kept = f", {found.kept} kept from before" if found.kept else ""
        say(f"{out}: masks of {len(found.keys)} images by {found.method}{kept}")
    for line in found.remarks():
        say(line, err=True)
    if html is not None:
        found.page(html)
        say(f"{html}: {len(found.shown)} images", err=True)
    say_skipped(found.bad, bad_rows)
