"""``tether curate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[str, typer.Argument(help="Parquet, tar, CSV, folder, pattern, hf:owner/name or a set's name.")],
    out: Annotated[Path, typer.Option(help="New folder; a run that was interrupted in it goes on.")],
    entries: Annotated[
        str | None, typer.Option(help="Metadata: a file with one entry a line, or 'auto' for the pool's own words.")
    ] = None,
    t: Annotated[
        float | None, typer.Option("--t", help="Matches up to which an entry is kept whole; near the median count.")
    ] = None,
    tail_share: Annotated[
        float | None, typer.Option(help="Instead of --t: share of matches, 0 to 1, that shall belong to rare entries.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Instead of the above: a YAML file with a list of steps.")] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    limit: Annotated[int, typer.Option(help="Most entries that 'auto' takes.")] = 500_000,
    minimum: Annotated[int, typer.Option(help="Least count of a word or pair of words for 'auto'.")] = 5,
    minimum_pmi: Annotated[float, typer.Option(help="Least mutual information of a pair for 'auto', bits.")] = 5.0,
) -> None:
    """Balance a pool of pairs: keep the rare, thin out the frequent, drop what matches nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tether.core.errors import InputError
    from tether.core.files import write_text
    from tether.data.curate.engines import ENGINES
    from tether.data.curate.metaclip import MetaClipCurator
    from tether.data.curate.metadata import read_entries
    from tether.data.curate.pool import open_pool
    from tether.data.curate.recipe import entries_of, read_recipe
    from tether.data.curate.run import curate

    if (recipe is None) == (entries is None):
        raise InputError("give either --entries (with --t or --tail-share) or --recipe")
    if recipe is not None and (t is not None or tail_share is not None):
        raise InputError("--t and --tail-share belong to --entries; a recipe states them in its steps")
    chosen = next((name for name in ENGINES if name == engine), None)
    if chosen is None:
        raise InputError(f"--engine: expected {' or '.join(ENGINES)}, got {engine!r}")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    kept = out / "entries.txt"
    listed: list[str] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        pool = open_pool(source)
        if recipe is not None:
            steps = read_recipe(recipe)
        else:
            if entries == "auto" and not kept.exists():
                if out.exists() and (not out.is_dir() or any(out.iterdir())):
                    raise InputError(f"{out}: expected a new or empty folder")
                MetaClipCurator(entries=["a"], t=t, tail_share=tail_share)  # refuse wrong settings before the work
                task = progress.add_task("reading words")
                found = entries_of(
                    pool,
                    limit=limit,
                    minimum=minimum,
                    minimum_pmi=minimum_pmi,
                    on_progress=lambda done, total: progress.update(task, completed=done, total=total),
                )
                write_text(kept, "".join(f"{entry}\n" for entry in found))
            listed = read_entries(kept if entries == "auto" else Path(str(entries)))
            steps = [("metaclip", MetaClipCurator(entries=listed, t=t, tail_share=tail_share))]
        curating = progress.add_task("curating")
        manifest = curate(
            pool,
            steps=steps,
            out=out,
            seed=seed,
            engine=chosen,
            strict=strict,
            on_progress=lambda done, total: progress.update(curating, completed=done, total=total),
        )
        if recipe is None and not kept.exists():
            write_text(kept, "".join(f"{entry}\n" for entry in listed))
    for line in summary(manifest):
        typer.echo(line)
    typer.echo(f"{out / 'manifest.json'}")


def summary(manifest: dict) -> list[str]:
    """What a person wants to know of a manifest, a line each."""
    rows, pairs = manifest["rows"], manifest["pairs"]
    lines = [f"pool: {rows['good']:,} rows with {pairs['good']:,} captions; {rows['bad']:,} bad rows skipped"]
    for step in manifest["by_step"]:
        report = step["report"]
        lines.append(
            f"{step['name']}: {step['in']:,} in, {step['refused']:,} refused ({step['refusal']}), "
            f"{step['thinned_out']:,} thinned out, {step['kept']:,} kept"
        )
        lines += [f"  {key}: {report[key]:,.6g}" for key in ("t", "tail_share", "entries_hit") if key in report]
    share = pairs["kept"] / pairs["good"] if pairs["good"] else 0.0
    lines.append(f"kept: {rows['kept']:,} rows with {pairs['kept']:,} captions ({share:.1%} of the captions)")
    return lines
