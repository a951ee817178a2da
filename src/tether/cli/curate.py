"""``tether curate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tether.cli.options import RawCsv, Strict
from tether.cli.say import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from tether.data.curate.engine.step import RecipeStep
    from tether.data.curate.pools.pool import Pool

_LARGE = 100_000  # rows of a piece, from which on a person is told
_SAMPLE = 10_000
"""Rows that ``--plan`` looks at unless told otherwise."""


def command(
    source: Annotated[str, typer.Argument(help="Parquet, tar, CSV, folder, pattern, hf:owner/name or a set's name.")],
    out: Annotated[
        Path | None, typer.Option(help="New folder; an interrupted run in it resumes. Not with --plan.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A YAML file with a list of steps, or `curate`, the package's own.")
    ] = None,
    entries: Annotated[
        str | None,
        typer.Option(
            help="Instead of a recipe, to balance only: a file with one entry a line, or 'auto' for the pool's words."
        ),
    ] = None,
    t: Annotated[
        float | None, typer.Option("--t", help="Matches up to which an entry is kept whole; near the median count.")
    ] = None,
    tail_share: Annotated[
        float | None, typer.Option(help="Instead of --t: share of matches, 0 to 1, that shall belong to rare entries.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would happen to a sample; nothing is written.")
    ] = False,
    sample: Annotated[int, typer.Option(help="Rows that --plan looks at.")] = _SAMPLE,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run, and refuse when there is none.")
    ] = False,
    written_as: Annotated[str, typer.Option("--format", help="parquet or webdataset.")] = "parquet",
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Processes of the local engine; default: one a core.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    images: Annotated[
        str | None, typer.Option(help="Thumbnails of the datasheet: blurred (default), clear or none.")
    ] = None,
    strict: Strict = False,
    raw_csv: RawCsv = False,
    limit: Annotated[int, typer.Option(help="Most entries that 'auto' takes.")] = 500_000,
    minimum: Annotated[int, typer.Option(help="Least count of a word or pair of words for 'auto'.")] = 5,
    minimum_pmi: Annotated[float, typer.Option(help="Least mutual information of a pair for 'auto', bits.")] = 5.0,
) -> None:
    """Make a training set of a pool of pairs: clean, without copies, balanced, and say what was dropped and why.

    Examples:
      tether curate photos/ --recipe curate --plan
      tether curate photos/ --recipe curate --out curated
      tether curate pool.parquet --entries auto --tail-share 0.06 --out balanced
    """
    import shutil
    import tempfile

    from tether.core.atomic_io import write_text
    from tether.core.errors import InputError
    from tether.core.locks import is_lock, locked
    from tether.core.recipes import find
    from tether.data.curate.engine.engines import ENGINES
    from tether.data.curate.engine.recipe import AUTO
    from tether.data.curate.engine.run import MANIFEST, curate
    from tether.data.curate.engine.shard_writer import FORMATS, STATE
    from tether.data.curate.engine.workers import cores
    from tether.data.curate.metaclip.metadata import read_entries
    from tether.data.curate.pools.opening import SamplePool, open_pool
    from tether.data.curate.pools.parquet import ParquetPool
    from tether.evaluate.datasheet import write_datasheet
    from tether.evaluate.datasheet.thumbnails import DISPLAYS
    from tether.evaluate.datasheet.write import PAGE

    if recipe is not None and entries is not None:
        raise InputError("--recipe and --entries: a recipe names the entries in its steps; give one of the two")
    if recipe is None and entries is None:
        raise InputError(
            "say what to do with the pairs: --recipe curate (the package's own steps) or a YAML file of yours, or "
            "--entries auto --tail-share 0.06 to balance them only; with --plan instead of --out, see it first"
        )
    if entries is not None and (t is None) == (tail_share is None):
        raise InputError("--entries: say how far to balance, either --t 20 or --tail-share 0.06")
    steps_file = None if recipe is None else find(recipe)
    if recipe is not None and (t is not None or tail_share is not None):
        raise InputError("--t and --tail-share belong to --entries; a recipe states them in its steps")
    chosen = next((name for name in ENGINES if name == engine), None)
    if chosen is None:
        raise InputError(f"--engine: expected {' or '.join(ENGINES)}, got {engine!r}")
    form = next((name for name in FORMATS if name == written_as), None)
    if form is None:
        raise InputError(f"--format: expected {' or '.join(FORMATS)}, got {written_as!r}")
    shown = next((name for name in DISPLAYS if name == (images or DISPLAYS[0])), None)
    if shown is None:
        raise InputError(f"--images: expected {', '.join(DISPLAYS)}, got {images!r}")
    if workers is not None and not 1 <= workers <= 1024:
        raise InputError(f"--workers: expected 1 to 1024, got {workers}")
    if minimum_pmi != minimum_pmi:
        raise InputError(f"--minimum-pmi: expected a number of bits, got {minimum_pmi}")
    if sample < 1:
        raise InputError(f"--sample: expected at least 1 row, got {sample}")
    if plan and (out is not None or resume):
        raise InputError("--plan writes nothing, so it takes neither --out nor --resume")
    if not plan and out is None:
        raise InputError("give --out, a new folder for the result, or --plan to see what would happen")
    if resume and not (out and any(is_lock(path) or path.name in (STATE, MANIFEST) for path in out.glob("*"))):
        raise InputError(f"--resume: {out} holds no run that could go on")

    pool = open_pool(source)
    if not plan and isinstance(pool, ParquetPool) and pool.most_rows() > _LARGE:
        say(
            f"note: a row group of {source} holds {pool.most_rows():,} rows and is one piece: one worker has it alone, "
            "an interrupted run does all of it again, and memory grows with it; write the file with "
            "row_group_size=10_000",
            err=True,
        )
    passing = Path(tempfile.mkdtemp(prefix="tether-plan-")) if out is None else None
    folder = passing or out
    assert folder is not None
    finished = (folder / MANIFEST).exists()
    try:
        with locked(folder, purpose="tether curate"), _Display() as display:
            if plan:
                pool = SamplePool(pool, rows=sample)
            auto = {"limit": limit, "minimum": minimum, "minimum_pmi": minimum_pmi}
            steps = _steps(pool, folder, steps_file, entries, t=t, tail_share=tail_share, auto=auto, display=display)
            manifest = curate(
                pool,
                steps=steps,
                out=folder / "sample" if plan else folder,
                seed=seed,
                engine=chosen,
                workers=cores() if workers is None else workers,
                written_as=form,
                strict=strict,
                raw_csv=raw_csv,
                on_progress=display.pieces,
                on_counts=display.counts,
                held=not plan,
            )
        if not plan and steps_file is not None and not (folder / "recipe.yaml").exists():
            write_text(folder / "recipe.yaml", steps_file.read_text(encoding="utf-8"))
        if not plan and entries is not None and entries != AUTO:  # those of an earlier try may lie there
            write_text(folder / "entries.txt", "".join(f"{entry}\n" for entry in read_entries(Path(entries))))
        if not plan and (images or not (folder / PAGE).exists()):
            write_datasheet(folder, pool=pool, images=shown)
    finally:
        if passing is not None:
            shutil.rmtree(passing, ignore_errors=True)
    if plan:
        say(f"plan: what would happen to {manifest['rows']['good']:,} rows spread over the pool; nothing was written")
    if finished:
        say(f"{folder}: this curation was finished before, and nothing was done; it made:")
    for line in summary(manifest, examples=plan):
        say(line)
    if plan:
        say("counts that a step sets for the whole pool (such as t) thin out more there than in a sample")
        return
    say(f"{folder / 'manifest.json'}")
    say(f"{folder / PAGE}")


def _steps(
    pool: Pool,
    folder: Path,
    recipe: Path | None,
    entries: str | None,
    *,
    t: float | None,
    tail_share: float | None,
    auto: dict[str, Any],
    display: _Display,
) -> list[tuple[str, RecipeStep]]:
    """The steps that were asked for; entries that are made of the pool, or given, lie beside the result."""
    from tether.core.atomic_io import read_json, write_json, write_text
    from tether.core.errors import InputError
    from tether.data.curate.engine.recipe import AUTO, entries_of, read_recipe
    from tether.data.curate.engine.run import nothing_finished, strange
    from tether.data.curate.engine.shard_writer import STATE
    from tether.data.curate.metaclip.metaclip import MetaClipCurator
    from tether.data.curate.metaclip.metadata import read_entries
    from tether.tasks.curate import CURATE_STEPS

    kept, record = folder / "entries.txt", folder / "entries.json"
    asked = {"pool": pool.version, **auto}

    def made() -> Path:
        if kept.exists() and record.exists() and read_json(record) == asked:
            return kept
        if kept.exists() and not (record.exists() and nothing_finished(folder)):
            raise InputError(
                f"{kept}: made of another pool, by hand, or with another --limit, --minimum or --minimum-pmi; give "
                "a new folder or remove this one"
            )
        kept.unlink(missing_ok=True)
        if nothing_finished(folder) and not (folder / STATE).exists() and (other := strange(folder)):
            raise InputError(f"{folder}: expected a new or empty folder, found {', '.join(other[:3])}")
        found = entries_of(pool, **auto, on_progress=display.task("reading words"))
        write_json(record, asked)  # first, so that no list is without it
        write_text(kept, "".join(f"{entry}\n" for entry in found))
        return kept

    if recipe is not None:
        return read_recipe(recipe, parts=CURATE_STEPS, entries=made)
    if entries == AUTO:
        MetaClipCurator(entries=["a"], t=t, tail_share=tail_share)  # refuse wrong settings before the work
        made()
    listed = read_entries(kept if entries == AUTO else Path(str(entries)))
    return [("metaclip", MetaClipCurator(entries=listed, t=t, tail_share=tail_share))]


class _Display:
    """A bar for the pieces, and beneath it a line for each step with its counts so far."""

    def __init__(self) -> None:
        from tether.cli.screen import bars

        self._progress = bars()
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def task(self, name: str) -> Callable[[int, int | None], None]:
        """A bar of its own."""
        task = self._progress.add_task(name)
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def pieces(self, done: int, total: int | None) -> None:
        """Pieces done of all passes; says so once when a run goes on."""
        if "curating" not in self._tasks:
            if done:
                say(f"going on where an interrupted run stopped: {done} of {total} pieces are done", err=True)
            self._tasks["curating"] = self.task("curating")
        self._tasks["curating"](done, total)

    def counts(self, name: str, asked: int, left: int) -> None:
        """Pairs that a step was asked about, and those it left alone."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None)
        self._progress.update(self._tasks[name], total=asked, completed=left)


def summary(manifest: dict[str, Any], *, examples: bool = False) -> list[str]:
    """What a person wants to know of a manifest, a line each."""
    rows, pairs = manifest["rows"], manifest["pairs"]
    lines = [f"pool: {rows['good']:,} rows with {pairs['good']:,} captions; {rows['bad']:,} bad rows skipped"]
    for step in manifest["by_step"]:
        report = step["report"]
        said = {
            "curator": "{refused:,} refused ({refusal}), {thinned_out:,} thinned out, {kept:,} kept",
            "rewriter": "{rewritten:,} rewritten, {kept:,} captions",
            "flag": "{flagged:,} flagged",
            "columns": "{added} added to their rows",
        }[step["kind"]]
        values = step | {"added": ", ".join(step.get("added", ()))}
        lines.append(f"{step['name']}: {step['in']:,} in, {said.format(**values)}")
        lines += [f"  {key}: {report[key]:,.6g}" for key in ("t", "tail_share", "entries_hit") if key in report]
        for what, shown in step["examples"].items() if examples else ():
            for each in shown[:3]:
                new = f" -> {each['new']!r}" if "new" in each else ""
                lines.append(f"  {what.replace('_', ' ')}: {each['key']}: {_short(each['text'])}{new}")
    if not rows["kept"]:
        lines.append(f"nothing is left: {_emptied(manifest)}")
    share = pairs["kept"] / pairs["good"] if pairs["good"] else 0.0
    lines.append(f"kept: {rows['kept']:,} rows with {pairs['kept']:,} captions ({share:.1%} of the captions)")
    return lines


def _emptied(manifest: dict[str, Any]) -> str:
    """Why a curation keeps nothing: bad rows, or the step that dropped most."""
    if not manifest["rows"]["good"]:
        return f"the pool has no row that can be used, and {manifest['rows']['bad']:,} bad ones"
    most = max(manifest["by_step"], key=lambda step: step["in"] - step.get("kept", step["in"]))
    why = most.get("refusal", "no words were left")
    return f"{most['name']} dropped {most['in'] - most['kept']:,} of {most['in']:,}: {why}"


def _short(text: str | None) -> str:
    return "(no caption)" if text is None else repr(text if len(text) <= 80 else f"{text[:77]}...")
