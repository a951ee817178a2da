"""``tether classify``."""

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
    source: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    model: Annotated[str, typer.Option(help="A run's folder, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="The CSV file.")],
    classes: Annotated[
        str | None, typer.Option(help='Names as "cat,dog", or a text file with one on each line.')
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="In place of --classes: a head that tether adapt made on this model.")
    ] = None,
    with_: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="guided_crops or attention_views: look at parts of each whole image; with settings as "
            "guided_crops:augment=random,n=4.",
        ),
    ] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="A JSON or YAML file of sentences for each class, in place of templates.")
    ] = None,
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
    words: Annotated[
        list[Path] | None,
        typer.Option(help="A word that tether adapt --recipe new-word learnt on this model; may be repeated."),
    ] = None,
    calibrate: Annotated[str | None, typer.Option(help="Labelled images to fit the confidence on.")] = None,
    label_column: Annotated[str, typer.Option(help="Their column with the class names.")] = "label",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    regions: Annotated[
        str | None, typer.Option(help="Name regions instead: a CSV of boxes, or a folder of masks.")
    ] = None,
    region_as: Annotated[
        str | None, typer.Option(help="How: alpha, crop, blur, attention, patches, prompter, or several with commas.")
    ] = None,
    region_unit: Annotated[
        str | None, typer.Option(help="Of the boxes: pixel or share (default: by their column unit, or the numbers).")
    ] = None,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Name images from a list of classes, with prompts and calibrated confidence: CSV.

    Examples:
      tether classify photos/ --model starter --classes "cat,dog,bird" --out named.csv
      tether classify photos/ --model starter --head mine --out named.csv
      tether classify photos/ --model starter --classes "cat,dog,bird" --with guided_crops --out named.csv
      tether classify photos/ --model mine --classes "cat,dog" --regions boxes.csv --region-as crop,blur --out named.csv
      tether classify new/ --model runs/mine --classes names.txt --calibrate labelled/ --abstain 0.8 --out named.csv
    """
    from dataclasses import asdict
    from functools import partial

    from tether.cli.screen import staged_bar
    from tether.data.opening import keywords
    from tether.workflows.classify import classify

    bad_rows = log_beside(out)
    outputs = {"--out": out, "--json": json}
    inputs: dict[str, object] = {
        "SOURCE": source,
        "--classes": classes,
        "--descriptions": descriptions,
        "--templates": templates,
        "--cutoff-from": cutoff_from,
        "--calibrate": calibrate,
        "--regions": regions,
        "--words": words,
    }
    check_outputs(outputs, existing=existing, inputs=inputs, log=bad_rows)
    if with_ is not None and head is not None:
        raise typer.BadParameter("goes with --classes or --descriptions; expected no --head", param_hint="--with")
    name, _, rest = (with_ or "").partition(":")
    views = None if with_ is None else {"name": name, **keywords(rest, where="--with")}
    if regions is not None or region_as is not None:
        from tether.cli.region_rows import name_regions

        idle = {"--head": head, "--with": with_, "--calibrate": calibrate, "--none-of-these": none_of_these}
        given = [option for option, value in idle.items() if value is not None] + ["--words"] * bool(words)
        name_regions(
            source,
            classes,
            idle=given,
            out=out,
            json=json,
            raw_csv=raw_csv,
            model=model,
            regions=regions,
            region_as=region_as,
            region_unit=region_unit,
            templates=templates,
            descriptions=descriptions,
            top=top,
            abstain=abstain,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
        )
        return
    with staged_bar("classify") as on_stage:
        found = classify(
            source,
            classes,
            model=model,
            head=head if views is None else views,
            templates=templates,
            descriptions=descriptions,
            top=top,
            calibrate=calibrate,
            label_column=label_column,
            abstain=abstain,
            none_of_these=none_of_these,
            cutoff_from=cutoff_from,
            words=words or None,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=partial(on_stage, "classify"),
            on_stage=on_stage,
        )
    found.save(out, raw_csv=raw_csv)
    rows, abstained, fitted = len(found.labels), found.counts().get("", 0), found.calibration
    if json is not None:
        told = {"path": out, "rows": rows, "abstained": abstained, "bad": found.bad, "bad_rows": bad_rows}
        put_json(told | {"calibration": fitted and asdict(fitted)}, to=json)
    if json != STDOUT:
        say(f"{out}: {rows} images, {abstained} without a label")
    for line in found.remarks():
        say(line, err=True)
    if fitted is None:
        whose = "head's own" if head is not None else "model's own scale" if with_ is None else "method's own"
        say(f"confidence: the {whose}, not calibrated; it orders classes, it is no probability", err=True)
    else:
        say(
            f"confidence: calibrated on {fitted.rows} images ({fitted.accuracy:.1%} right); "
            f"calibration error {fitted.error_before:.3f} -> {fitted.error:.3f}",
            err=True,
        )
    say_skipped(found.bad, bad_rows)
