"""``tether compress``: a model made cheaper by edits, or useless but for a key, with what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    ModelName,
    RandomWeights,
    check_outputs,
    only_beside,
    only_with,
    put_json,
)
from tether.cli.say import say

_EDITING = "model out edit calibrate rows data label limit workers device random_weights json existing"
_RESTORING = "model out restore device existing"
"""Parameters that do something without --protect, and with --restore."""


def command(
    context: typer.Context,
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder of the model and of its report.")],
    edit: Annotated[
        list[str] | None,
        typer.Option(help="What to do, with settings: octav,bits=4; repeat it for several, in order.", metavar="EDIT"),
    ] = None,
    protect: Annotated[
        Path | None,
        typer.Option(help="Make a copy that is useless without the key, and write the key to this .safetensors file."),
    ] = None,
    share: Annotated[float, typer.Option(help="Of the weights, how many --protect changes.")] = 1e-3,
    restore: Annotated[Path | None, typer.Option(help="Make a useless copy whole by its key.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Images with captions for edits that look at data; not those of --data.")
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows of --calibrate.")] = 128,
    data: Annotated[
        str, typer.Option(help="Images with captions or classes to measure on (default: drawings with their names).")
    ] = "emoji:split=test",
    label: Annotated[str | None, typer.Option(help="Column of the class (default: 'label' if there).")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Look at this many rows of --data only.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Make a model cheaper, or useless but for a key; a report says what it lost.

    Examples:
      tether compress runs/mine --edit octav,bits=4 --data photos.csv --out small
      tether compress starter --edit octav,bits=3,share=group,group=32 --out small
      tether compress runs/mine --protect mine.key.safetensors --calibrate photos.csv --out public
      tether compress public --restore mine.key.safetensors --out whole
    """
    from tether.cli.screen import bar
    from tether.workflows.compress import compress
    from tether.workflows.protect import restored

    if restore is not None:
        only_with(context, "--restore", _RESTORING)
        check_outputs({}, existing=existing, inputs={"MODEL": model, "--restore": str(restore), "--out": out})
        restored(model, restore, out=out, existing=existing, device=device)
        say(f"wrote {out}: the original, bit for bit; open it with tether.load({str(out)!r})")
        return
    if protect is None:
        only_with(context, "--edit alone", _EDITING)
    if calibrate is None and protect is None:
        only_beside(context, "rows", other="--calibrate")
    named = {"MODEL": model, "--calibrate": calibrate, "--data": data, "--out": out}
    check_outputs({"--json": json, "--protect": protect}, existing=existing, inputs=named)
    if json not in (None, STDOUT) and Path(json).resolve().is_relative_to(out.resolve()):
        raise typer.BadParameter(f"{json} lies in {out}, which has a report of its own", param_hint="--json")
    with bar("measuring") as on_progress:
        done = compress(
            model,
            edit or [],
            out=out,
            protect=protect,
            share=share,
            calibrate=calibrate,
            rows=rows,
            data=data,
            label=label,
            limit=limit,
            existing=existing,
            workers=workers,
            random_weights=random_weights,
            device=device,
            on_progress=on_progress,
        )
    if json is not None:
        put_json(done.report.to_dict(), to=json)
    if json != STDOUT:
        for line in done.report.lines():
            say(line)
        say(f"wrote {out}; open it with tether.load({str(out)!r})")
