"""``tether report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import Device
from tether.cli.say import say


def command(
    run: Annotated[Path, typer.Argument(help="A run's folder, as tether train leaves it.")],
    source: Annotated[
        str | None, typer.Option(help="What to look at the model on (default: what the run evaluates on).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the run's own.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the class (default: 'label' or 'group' if there).")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Rows looked at, from the first.")] = 2000,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95 % intervals; 0 leaves them out.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples and the map.")] = 0,
    device: Device = "auto",
) -> None:
    """Write a run's report: one HTML file with curves, galleries, confusion, map, numbers, configuration and cost.

    Examples:
      tether report runs/mine
      tether report runs/mine --source other-photos/ --label group
    """
    from tether.evaluate import report
    from tether.evaluate.report.run_folder import read_run

    encoder = rows = None
    if model is not None:
        from tether import load

        encoder = load(model, device=device)
    if source is not None:
        from tether.data import open_source

        rows = open_source(source, where="--source")
    path = report.write(
        run, model=encoder, source=rows, label=label, limit=limit, bootstrap=bootstrap, seed=seed, device=device
    )
    if unfinished := read_run(run).unfinished():
        say(unfinished, err=True)
    say(str(path))
