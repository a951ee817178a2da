"""``tether audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, RandomWeights, RawCsv, Strict, check_outputs, put_json
from tether.cli.say import say, say_skipped


def command(
    source: Annotated[str, typer.Argument(help="A folder, .parquet, .csv or .tar file, a pattern, or a data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the report; an interrupted audit in it resumes.")],
    label: Annotated[str | None, typer.Option(help="Column of the class (default: 'label' if there).")] = None,
    classes: Annotated[
        str | None, typer.Option(help='All names there may be, as "cat,dog" or a text file; numbers count into them.')
    ] = None,
    model: Annotated[
        str, typer.Option(help="A run's folder, starter, open_clip:NAME/WEIGHTS or hf:OWNER/NAME.")
    ] = "starter",
    against: Annotated[
        str | None, typer.Option(help="The other part of a split, such as the training set: copies of it are named.")
    ] = None,
    look: Annotated[
        list[str] | None,
        typer.Option(help="At label, caption, copy or outlier alone; repeat it for several (default: all)."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Suspects of a kind, at most.")] = 200,
    limit: Annotated[int, typer.Option(min=1, help="Rows looked at, spread over the source.")] = 50_000,
    label_studio: Annotated[
        bool, typer.Option("--label-studio", help="Also write tasks with predictions for Label Studio.")
    ] = False,
    fiftyone: Annotated[bool, typer.Option("--fiftyone", help="Also write a data set that FiftyOne opens.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one forward.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 2,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Find likely wrong labels and captions, copies across a split and outliers: each with its reason, on one page.

    Examples:
      tether audit photos/ --label label --out audit
      tether audit test/ --against train/ --model runs/mine --label-studio --out audit
    """
    from typing import cast

    from tether.cli.screen import bars
    from tether.core.errors import InputError
    from tether.data.review import KINDS, SuspectKind
    from tether.workflows.audit import TABLES, audit

    inputs = {"SOURCE": source, "--against": against, "--classes": classes}
    check_outputs({"--json": json}, existing=existing, inputs=inputs | {"--out": out})
    check_outputs({f"--out ({name})": out / name for name in TABLES}, existing="replace", inputs=inputs)
    if odd := [one for one in look or () if one not in KINDS]:
        raise InputError(f"--look: expected {', '.join(KINDS)}, got {odd[0]!r}")
    with bars() as bar:
        task = bar.add_task("loading the model", total=None)
        found = audit(
            source,
            out=out,
            label=label,
            classes=classes,
            model=model,
            against=against,
            look=cast(list[SuspectKind], look) or None,
            most=most,
            limit=limit,
            label_studio=label_studio,
            fiftyone=fiftyone,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            seed=seed,
            raw_csv=raw_csv,
            random_weights=random_weights,
            device=device,
            on_progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if json is not None:
        told = {
            "rows": len(found.keys),
            "bad": found.bad,
            "suspects": found.counts(),
            "looked": found.looked,
            "remarks": found.remarks,
        }
        put_json({**told, "files": found.files}, to=json)
    if json != STDOUT:
        counts = ", ".join(f"{found.counts()[kind]} {kind}" for kind in found.looked) or "nothing was looked at"
        say(f"{len(found.keys):,} rows; suspects: {counts}")
        for one in (first for kind in found.counts() for first in found.of(kind)[:3]):
            say(f"  {one.kind}: {one.key}: {one.reason}")
        for path in found.files:
            say(path)
    for line in found.remarks:
        say(line, err=True)
    say_skipped(found.bad, f"{out / 'kept'}/*/bad_rows.jsonl")
