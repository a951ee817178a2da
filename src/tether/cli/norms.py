"""``tether norms``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, RandomWeights, RawCsv, check_outputs, only_with, put_json
from tether.cli.say import say

_ALWAYS = "task file out encoder seed device random_weights json existing"
"""Parameters that do something whatever is asked."""


def command(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="normbank, stream-norms, normdial, norm-conflicts or egonormia.")],
    file: Annotated[str, typer.Argument(help="The file or folder in that set's format; made: sentences of ours.")],
    out: Annotated[Path, typer.Option(help="Folder of the head, report.md, report.json and judged.csv.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="tfidf (default), tfidf-letters, minilm, or a model; a --trained head on one asks for it."),
    ] = None,
    head: Annotated[str, typer.Option(help="svm, logistic or mlp.")] = "svm",
    trained: Annotated[
        Path | None, typer.Option(help="Folder of an earlier run: its head judges FILE, nothing is learnt.")
    ] = None,
    fields: Annotated[
        str | None, typer.Option(help='Fields to read, as "message,channel" (default: the task\'s).')
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help='What normbank\'s FILE calls its columns, as "setting=place,norm=verdict".')
    ] = None,
    judged_by: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Who gave FILE's labels, for the report; FILE cannot say it.")
    ] = None,
    test: Annotated[float, typer.Option(help="Share of the groups held out, where FILE names no split.")] = 0.25,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out NormDial's turns with an unknown label.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the head.")] = 0,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    raw_csv: RawCsv = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Train a head on a set of social norms, or judge a file by one, and report with chance beside every figure.

    Examples:
      tether norms normbank NormBank.csv --encoder minilm --out norms
      tether norms norm-conflicts contracts/ --trained norms --out judged
    """
    from typing import Any, cast, get_args

    from tether.core.errors import InputError
    from tether.evaluate.norms.report import NO_AUTHORITY
    from tether.tasks.norms.classifier import Head
    from tether.workflows.norms import HEAD, JUDGEMENTS, LEARNT, PAGE, REPORT, Task, norms

    for where, value, known in (("TASK", task, Task), ("--head", head, Head)):
        if value not in get_args(known):
            raise InputError(f"{where}: expected {', '.join(get_args(known))}, got {value!r}")
    if task == "egonormia":
        only_with(context, task, f"{_ALWAYS} test judged_by")
    elif trained is not None:
        only_with(context, "--trained", f"{_ALWAYS} trained skip_unknown raw_csv columns judged_by")
    if not 0 < test < 1:
        raise InputError(f"--test: expected a share above 0 and below 1, got {test}")
    names = (JUDGEMENTS, REPORT, PAGE) if trained is not None else (JUDGEMENTS, REPORT, PAGE, HEAD, LEARNT)
    outputs = {f"--out, {name}": out / name for name in names} | {"--json": None if json is None else Path(json)}
    inputs: dict[str, object] = {"FILE": file}
    if trained is not None:
        inputs["--trained"] = [trained / HEAD, trained / LEARNT, trained / REPORT, trained / PAGE, trained / JUDGEMENTS]
    check_outputs(outputs, existing=existing, inputs=inputs)
    run = norms(
        cast(Any, task),
        file,
        out=out,
        encoder=encoder,
        head=cast(Any, head),
        trained=trained,
        fields=None if fields is None else [name.strip() for name in fields.split(",")],
        columns=None if columns is None else _named(columns),
        judged_by=judged_by,
        test=test,
        skip_unknown=skip_unknown,
        seed=seed,
        random_weights=random_weights,
        device=device,
        raw_csv=raw_csv,
    )
    if json is not None:
        figures = None if run.report is None else run.report.as_json()
        put_json({"files": [str(path) for path in run.files], "judged": len(run.rows), "report": figures}, to=json)
    if json != STDOUT:
        say(f"{out}: {len(run.rows):,} rows judged")
        for line in [] if run.report is None else run.report.lines():
            say(line)
    if run.report is not None:
        say(f"who judged: {run.report.judged}", err=True)
    for line in run.remarks:
        say(line, err=True)
    say(NO_AUTHORITY, err=True)


def _named(columns: str) -> dict[str, str]:
    """Names as they stand, not read as YAML: a column may be called 1 or no."""
    found = dict[str, str]()
    for one in columns.split(","):
        ours, equals, theirs = (part.strip() for part in one.partition("="))
        if not equals or not ours or not theirs or ours in found:
            raise typer.BadParameter(f"expected ours=theirs, each of ours once, got {one!r}", param_hint="'--columns'")
        found[ours] = theirs
    return found
