"""``tether detect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, RandomWeights, RawCsv, Strict, check_outputs, put_json
from tether.cli.say import say, say_skipped


def command(
    images: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    model: Annotated[str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="The folder: scores.csv, index.html, maps/, heat/.")],
    good: Annotated[
        str | None, typer.Option(help="Images without defects, as IMAGES: compare with them, and decide.")
    ] = None,
    with_: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="winclip, patches, anomalyclip, adaptclip or clap, with settings as patches:size=448 (a wrong one is "
            "answered with all there are); default: what --head is for, else patches with --good or where the image "
            "tower is no transformer, else winclip.",
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="Folder of a head that tether adapt made on this model by anomaly-prompts or -adapters."),
    ] = None,
    object_: Annotated[
        str, typer.Option("--object", help='What the images show, as "magnetic tile"; winclip and clap read it.')
    ] = "object",
    masks: Annotated[
        Path | None,
        typer.Option(help="A folder of PNGs with the defects, black without: report AUROC, precision and AUPRO."),
    ] = None,
    false_alarms: Annotated[
        float | None, typer.Option(help="Share of normal images that may be called defective; default: 0.05.")
    ] = None,
    most_good: Annotated[int, typer.Option(min=1, help="Good images that are taken, at most.")] = 500,
    shown: Annotated[int, typer.Option(min=0, help="Images on the page, at most, the most unusual.")] = 60,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Find images with a defect, and where: scores, decisions, heat maps, a page.

    A second run of the same command resumes the first.

    Examples:
      tether detect photos/ --model starter --good good/ --out report
      tether detect photos/ --model MODEL --object "magnetic tile" --masks masks/ --out report
      tether detect photos/ --model MODEL --good good/ --with patches:size=448 --false-alarms 0.02 --out report
      tether detect photos/ --model MODEL --object tile --with "clap:positive=[a {} with a scratch]" --out report
      tether detect photos/ --model MODEL --head prompts --out report
    """
    from dataclasses import asdict
    from functools import partial

    from tether.cli.screen import staged_bar
    from tether.core.atomic_io import local
    from tether.workflows.detect import detect

    bad_rows = Path(f"{local(out)}.bad_rows.jsonl")
    outputs = {"--json": json}
    inputs: dict[str, object] = {"IMAGES": images, "--out": out, "--good": good, "--masks": masks, "--head": head}
    check_outputs(outputs, existing=existing, inputs=inputs, log=bad_rows)
    with staged_bar("detect") as on_stage:
        found = detect(
            images,
            model=model,
            out=out,
            good=good,
            using=with_,
            head=head,
            name=object_,
            masks=masks,
            false_alarms=false_alarms,
            most_good=most_good,
            shown=shown,
            replace_maps=existing == "replace",
            raw_csv=raw_csv,
            workers=workers,
            strict=strict,
            bad_rows=bad_rows,
            random_weights=random_weights,
            device=device,
            on_progress=partial(on_stage, "detect"),
            on_stage=on_stage,
        )
    if json is not None:
        told = {"path": out, "images": len(found.keys), "kept": found.kept, "bad": found.bad, "method": found.method}
        threshold, alarms = found.good.threshold, found.alarms()
        told |= {"good": len(found.good.keys), "threshold": threshold and asdict(threshold)}
        told |= {"report": found.report and asdict(found.report)}
        told |= {"alarms": alarms and {"defective": asdict(alarms[0]), "normal": asdict(alarms[1])}}
        put_json(told, to=json)
    if json != STDOUT:
        kept = f", {found.kept} kept from before" if found.kept else ""
        say(f"{out}: scores of {len(found.keys)} images by {found.method}{kept}; look at {out / 'index.html'}")
    for line in found.remarks():
        say(line, err=True)
    say_skipped(found.skipped, bad_rows)
