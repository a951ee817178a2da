"""Curate a pool: steps of a recipe over every pair, in as few readings as there can be, then shards and a manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether import __version__
from tether.core.atomic_io import read_json, remove_leftovers, write_json
from tether.core.errors import InputError
from tether.core.locks import is_lock, locked
from tether.core.ranges import Count, checked
from tether.data.curate.engine.engines import ENGINES, Engine, EngineName
from tether.data.curate.engine.manifest import read_manifest, summary
from tether.data.curate.engine.partition_state import load_state
from tether.data.curate.engine.plan import Plan, Tally, asked
from tether.data.curate.engine.shard_writer import STATE, Format
from tether.data.curate.engine.step import ColumnStep, CurateStep, FlagStep, RecipeStep, RewriteStep
from tether.data.curate.pools.pool import Pool, check_columns, licence_column

MANIFEST = "manifest.json"
BESIDE = ("entries.json", "entries.txt", "recipe.yaml")
"""What the command line puts into the folder on its own account."""
Progress = Callable[[int, int | None], None]
Counts = Callable[[str, int, int], None]


@checked
def curate(
    pool: Pool,
    *,
    steps: Sequence[tuple[str, RecipeStep]],
    out: Path,
    seed: int = 0,
    engine: EngineName = "local",
    workers: Count = 1,
    written_as: Format = "parquet",
    strict: bool = False,
    raw_csv: bool = False,
    on_progress: Progress | None = None,
    on_counts: Counts | None = None,
    held: bool = False,
) -> dict[str, Any]:
    """Keep the rows of a pool that every step keeps.

    A pair of image and caption is the unit: a row stays while one of its captions does, and loses the others. The
    result depends on the pool, the steps and the seed alone: not on the engine, on interruptions or on the order in
    which pieces are done. Called again after an interruption it resumes; called again afterwards it changes nothing.

    Written into ``out``, each file atomically: ``part-*.parquet`` (or ``.tar``), ``dropped/part-*.csv`` (key,
    caption, step, reason), ``flagged/part-*.csv`` (key, caption, step, label, score of kept pairs),
    ``bad_rows.jsonl`` and, last, ``manifest.json``.

    Args:
        pool: from ``open_pool``.
        steps: names and steps, in order; counts that they hold are left aside.
        out: a new folder, or one that an interrupted run of the same settings left.
        seed: of the draws.
        engine: ``local`` or ``ray``.
        workers: processes of the local engine; with more than one, a script needs its ``if __name__ == "__main__"``.
        written_as: ``parquet`` with all columns of the pool, or ``webdataset`` (tars).
        strict: stop at the first bad row.
        raw_csv: write texts that a spreadsheet would run as formulas as they are, not with an apostrophe.
        on_progress: told the pieces done and their number, all passes together.
        on_counts: told the name of a step, how many pairs it was asked about so far and how many it left as they are.
        held: whether the caller holds ``out`` with ``core.locks.locked``; otherwise it is held here.

    Returns:
        the manifest.

    Raises:
        InputError: no steps, steps in an order that cannot be, a column that the pool does not have, an empty pool, a
            folder that holds something else, or a bad row under ``strict``.
        LockedError: another curation is writing there.
        TetherError: the disk is full; it says what is kept.
    """
    if not steps:
        raise InputError("steps: expected at least one")
    steps = [(name, step.empty() if isinstance(step, CurateStep) else step) for name, step in steps]
    check(pool, steps, written_as=written_as)
    listed = [{"name": name, **step.settings} for name, step in steps]
    identity = {
        "format": 2,
        "pool": {"name": pool.name, "version": pool.version},
        "steps": listed,
        "seed": seed,
        "strict": strict,
        "written_as": written_as,
        **({"raw_csv": True} if raw_csv else {}),
    }
    digest = _digest(identity)
    with contextlib.nullcontext() if held else locked(out, purpose="tether curate"):
        finished = _enter(out, digest)
        if finished is not None:
            return finished
        pieces = pool.pieces()
        if not pieces:
            raise InputError(f"{pool.name}: the pool is empty")
        plan = Plan(pool, tuple(steps), seed, out.absolute(), strict, written_as, licence_column(pool), raw_csv)
        with contextlib.closing(ENGINES[engine](workers)) as running:
            repeated = _Passes(plan, running, on_progress, on_counts).run()
        manifest = {
            **identity,
            "digest": digest,
            "recipe_sha256": _digest(listed),
            "tether": __version__,
            **summary(plan, pieces, repeated),
        }
        write_json(out / MANIFEST, manifest)
        shutil.rmtree(out / STATE, ignore_errors=True)
        return manifest


def nothing_finished(out: Path) -> bool:
    """Whether a folder holds neither a finished curation nor a finished piece of one, so that another may begin."""
    return not (out / MANIFEST).exists() and not any((out / STATE).glob("pass-*/*.npz"))


def strange(out: Path) -> list[str]:
    """Names in a folder that no curation and no command line left there, once their unfinished files are removed."""
    remove_leftovers(out)
    return sorted(path.name for path in out.glob("*") if path.name not in (STATE, *BESIDE) and not is_lock(path))


class _Passes:
    """The readings of one curation, one after the other, with what is told meanwhile."""

    def __init__(self, plan: Plan, engine: Engine, on_progress: Progress | None, on_counts: Counts | None) -> None:
        self._plan, self._engine, self._pieces = plan, engine, plan.pool.pieces()
        self._on_progress, self._on_counts = on_progress, on_counts
        self._seen: dict[int, list[int]] = {}
        self._done = 0

    def run(self) -> list[tuple[str, str]]:
        """Do what is left to do; returns keys of rows that stood earlier, and why they count as bad."""
        repeated: list[tuple[str, str]] = []
        self._done = sum(len(self._there(number)) for number in range(len(self._plan.passes)))
        self._tell(0)
        for number, each in enumerate(self._plan.passes):
            self._run(number)
            if number == 0 and not self._plan.pool.keys_unique:
                repeated = _without_duplicates(self._plan, self._pieces)
                self._run(number)
            if each.counts is not None:
                _merge(self._plan, number, self._pieces)
        return repeated

    def _there(self, number: int) -> list[int]:
        return [piece for piece in range(self._pieces) if self._plan.state_path(number, piece).exists()]

    def _tell(self, more: int) -> None:
        total = self._pieces * len(self._plan.passes)
        self._done = min(self._done + more, total)  # pieces with repeated keys are done twice
        if self._on_progress:
            self._on_progress(self._done, total)

    def _run(self, number: int) -> None:
        doing, there = self._plan.passes[number], self._there(number)
        for step in doing.asks:
            self._seen.pop(step, None)
        for piece in there if self._on_counts else ():
            self._told(asked(doing, load_state(self._plan.state_path(number, piece))["tally"]))
        left = sorted({*range(self._pieces)} - {*there})
        if left:
            for _, tally in self._engine.run(self._plan, number=number, pieces=left):
                self._told(tally)
                self._tell(1)

    def _told(self, tally: Tally) -> None:
        for number, pairs, first, second in tally:
            name, step = self._plan.steps[number]
            counts = self._seen.setdefault(number, [0, 0])
            counts[0] += pairs
            counts[1] += pairs - first - (second if isinstance(step, CurateStep) else 0)
            if self._on_counts:
                self._on_counts(name, *counts)


def check(pool: Pool, steps: Sequence[tuple[str, RecipeStep]], *, written_as: Format = "parquet") -> None:
    """Refuse steps that this pool or this form cannot serve, or that cannot stand where they do."""
    several = adding = ""
    taken = set(pool.column_names())
    for name, step in steps:
        if not isinstance(step, (CurateStep, RewriteStep, FlagStep, ColumnStep)):
            kinds = "keeps, maps, flags or adds columns"
            raise InputError(f"{name}: expected a step that {kinds}, got {type(step).__name__}")
        if isinstance(step, CurateStep) and several:
            raise InputError(f"{name}: cannot follow {several}, which gives several captions; put it before")
        if isinstance(step, (CurateStep, RewriteStep)) and adding:
            raise InputError(f"{name}: cannot follow {adding}, which adds columns to what is left; put it before")
        if isinstance(step, RewriteStep) and step.gives == "several":
            several = name
        check_columns(pool, [column for column in step.columns if column not in ("key", "text")], where=name)
        if isinstance(step, ColumnStep):
            adding = name
            if written_as != "parquet":
                raise InputError(f"{name}: adds columns, which --format parquet takes; got {written_as}")
            if twice := [column for column in step.adds.names if column in taken]:
                raise InputError(f"{name}: {pool.name} has a column {twice[0]!r} already; name the new one otherwise")
            taken.update(step.adds.names)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _merge(plan: Plan, number: int, pieces: int) -> None:
    """Add up what the pieces counted for the step that pass ``number`` counts."""
    counts = plan.passes[number].counts
    assert counts is not None
    step = plan.steps[counts][1]
    assert isinstance(step, CurateStep)
    for piece in range(pieces):
        counted = step.empty()
        saved = load_state(plan.state_path(number, piece))
        state = {key.removeprefix("state."): value for key, value in saved.items() if key.startswith("state.")}
        counted.load_state_dict({key: value.item() if value.ndim == 0 else value for key, value in state.items()})
        step.merge(counted)


def _enter(out: Path, digest: str) -> dict[str, Any] | None:
    """The manifest of a finished run of the same settings; refuses a folder of anything else."""
    plan = out / STATE / "plan.json"
    if nothing_finished(out):
        if plan.exists():  # a run of any settings, and killed while it wrote its first piece
            for path in out.glob("part-*"):
                path.unlink()
            for name in ("dropped", "flagged"):
                shutil.rmtree(out / name, ignore_errors=True)
        elif other := strange(out):
            raise InputError(f"{out}: expected a new or empty folder, found {', '.join(other[:3])}")
        remove_leftovers(out)
        shutil.rmtree(out / STATE, ignore_errors=True)
        write_json(plan, {"digest": digest})
        return None
    finished = (out / MANIFEST).exists()
    held = read_manifest(out / MANIFEST) if finished else read_json(plan)
    if not isinstance(held, dict) or held.get("digest") != digest:
        raise InputError(
            f"{out}: holds the curation of another pool, of other steps or of another seed; give a new folder or "
            "remove this one"
        )
    remove_leftovers(out)
    if not finished:
        for path in (out / STATE).glob("pass-*"):
            remove_leftovers(path)
        for buffer in (out / STATE).glob("writing-*"):  # of a run that was killed
            buffer.unlink()
        return None
    for shard in held["shards"]:
        if not (out / shard["file"]).is_file():
            raise InputError(f"{out / shard['file']}: no such file, though {MANIFEST} names it; start in a new folder")
    shutil.rmtree(out / STATE, ignore_errors=True)  # left when the run was killed after its manifest was written
    return held


def _without_duplicates(plan: Plan, pieces: int) -> list[tuple[str, str]]:
    """Find rows whose key stood earlier; pieces that hold some are to be counted again without them."""
    hashes = [load_state(plan.state_path(0, piece)).get("hashes", np.zeros(0, np.uint64)) for piece in range(pieces)]
    sizes = np.array([len(each) for each in hashes])
    whole = np.concatenate(hashes)
    order = np.argsort(whole, kind="stable")
    again = np.zeros(len(whole), np.bool_)
    again[order[1:]] = whole[order][1:] == whole[order][:-1]
    repeated: list[tuple[str, str]] = []
    for piece, (start, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
        places = np.flatnonzero(again[start : start + size])
        if not len(places):
            continue
        keys = [key for rows in plan.pool.read(piece, columns="captions") for key in rows.keys.to_pylist()]
        names = [(keys[place], "the key occurs earlier in the pool") for place in places]
        if plan.strict:
            raise InputError(f"{plan.pool.name}: bad row {names[0][0]!r}: {names[0][1]}")
        repeated += names
        plan.duplicates[piece] = places
        if not int(load_state(plan.state_path(0, piece))["duplicates"]):  # not yet counted without them
            plan.state_path(0, piece).unlink()
    return repeated
