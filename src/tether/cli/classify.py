"""``tether classify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, check_new, put_json
from tether.cli.say import say


def command(
    source: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    classes: Annotated[str, typer.Option(help='Names as "cat,dog", or a text file with one on each line.')],
    model: Annotated[str, typer.Option(help="A run's folder, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="The CSV file.")],
    templates: Annotated[
        str | None,
        typer.Option(
            help='name, photo, photos, drawings, "a map of {}", or a file of such sentences; default: the model\'s own.'
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes listed for each image.")] = 3,
    abstain: Annotated[float, typer.Option(min=0, max=1, help="Least confidence for a label to be given.")] = 0.0,
    none_of_these: Annotated[
        str | None,
        typer.Option(
            help="No label where the best class has no higher cosine: a number, or auto (as search --cutoff)."
        ),
    ] = None,
    cutoff_from: Annotated[
        str | None, typer.Option(help="Images with captions to fit that on; a run of ours has its own.")
    ] = None,
    calibrate: Annotated[str | None, typer.Option(help="Labelled images to fit the confidence on.")] = None,
    label_column: Annotated[str, typer.Option(help="Their column with the class names.")] = "label",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Accept a model without weights.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    raw_csv: Annotated[
        bool, typer.Option("--raw-csv", help="Write cells that a spreadsheet would run as formulas as they are.")
    ] = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Name images from a list of classes, with prompts and calibrated confidence: CSV.

    Examples:
      tether classify photos/ --model starter --classes "cat,dog,bird" --out named.csv
      tether classify new/ --model runs/mine --classes names.txt --calibrate labelled/ --abstain 0.8 --out named.csv
    """
    from dataclasses import asdict
    from typing import cast

    from tether.cli.screen import bars
    from tether.core.geometry import check_finite
    from tether.core.protocols import DualEncoder
    from tether.tasks.classify.prompts import classes_of, templates_of

    check_new(out, existing=existing, where="--out")
    check_new(json, existing=existing, where="--json")
    names = classes_of(classes)  # before the model: mistakes show at once
    sentences = None if templates is None else templates_of(templates)

    import tether
    from tether.data import open_source
    from tether.tasks.classify.classify import classify
    from tether.workflows.calibration import cutoff_of, unseen_words

    opened = open_source(source, where="SOURCE")
    labelled = None if calibrate is None else open_source(calibrate, where="--calibrate")
    loaded = cast(DualEncoder, tether.load(model, device=device, random_weights=random_weights))
    check_finite(loaded, where=model)
    cutoff = cutoff_of(none_of_these, model=loaded, name=model, pairs=cutoff_from, option="--none-of-these")
    with bars() as progress:
        task = progress.add_task("classify", total=None)
        report = classify(
            opened,
            model=loaded,
            classes=names,
            out=out,
            templates=sentences,
            top=top,
            abstain=abstain,
            above=None if cutoff is None else cutoff.threshold,
            calibrate=labelled,
            label_column=label_column,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            raw_csv=raw_csv,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if json is not None:
        put_json(asdict(report), to=json)
    if json != STDOUT:
        say(f"{report.path}: {report.rows} images, {report.abstained} without a label")
    for line in [*([cutoff.line(pool=report.rows)] if cutoff else []), *unseen_words(names, model=loaded, name=model)]:
        say(line, err=True)
    if report.calibration is None:
        say("confidence: the model's own scale, not calibrated; it orders classes, it is no probability", err=True)
    else:
        fitted = report.calibration
        say(
            f"confidence: calibrated on {fitted.rows} images ({fitted.accuracy:.1%} right); "
            f"calibration error {fitted.error_before:.3f} -> {fitted.error:.3f}",
            err=True,
        )
    if report.bad:
        say(f"{report.bad} bad rows were skipped; {report.bad_rows} names them", err=True)
