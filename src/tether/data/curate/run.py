"""Curate a pool: a list of steps, each counted over what the ones before left, then shards and a manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether import __version__
from tether.core.errors import InputError
from tether.core.files import read_json, write_json, write_text
from tether.data.curate.engines import ENGINES, EngineName
from tether.data.curate.plan import ALIVE, STATE, Plan, load_state
from tether.data.curate.pool import Pool
from tether.data.curate.step import CurateStep

MANIFEST = "manifest.json"
BAD_ROWS = "bad_rows.jsonl"
Progress = Callable[[int, int | None], None]


def curate(
    pool: Pool,
    *,
    steps: Sequence[tuple[str, CurateStep]],
    out: Path,
    seed: int = 0,
    engine: EngineName = "local",
    strict: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Keep the rows of a pool that every step keeps.

    A pair of picture and caption is the unit: a row stays while one of its captions does, and loses the others. The
    result depends on the pool, the steps and the seed alone: not on the engine, on interruptions or on the order in
    which pieces are done. Called again after an interruption it goes on; called again afterwards it changes nothing.

    Written into ``out``, each file whole or absent: ``part-*.parquet``, ``dropped/part-*.csv`` (key, caption, step,
    reason), ``bad_rows.jsonl`` and, last, ``manifest.json``.

    Args:
        pool: from ``open_pool``.
        steps: names and curators without counts, in order.
        out: a new folder, or one that an interrupted run of the same settings left.
        seed: of the draws.
        engine: ``local`` or ``ray``.
        strict: stop at the first bad row.
        on_progress: told the pieces done and their number, all passes together.

    Returns:
        the manifest.

    Raises:
        InputError: no steps, an empty pool, a folder that holds something else, or a bad row under ``strict``.
    """
    if not steps:
        raise InputError("steps: expected at least one")
    if engine not in ENGINES:
        raise InputError(f"engine: expected {' or '.join(ENGINES)}, got {engine!r}")
    identity = {
        "format": 1,
        "pool": {"name": pool.name, "version": pool.version},
        "steps": [{"name": name, **step.settings} for name, step in steps],
        "seed": seed,
        "strict": strict,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    finished = _enter(out, digest)
    if finished is not None:
        return finished
    plan = Plan(pool, tuple(steps), seed, out.absolute(), strict)
    pieces, passes = pool.pieces(), len(steps) + 1
    if not pieces:
        raise InputError(f"{pool.name}: the pool is empty")

    def run(number: int) -> None:
        left = [piece for piece in range(pieces) if not plan.state_path(number, piece).exists()]
        done = number * pieces + pieces - len(left)
        if on_progress:
            on_progress(done, pieces * passes)
        if left:
            for count, _ in enumerate(ENGINES[engine](plan, number=number, pieces=left), start=1):
                if on_progress:
                    on_progress(done + count, pieces * passes)

    repeated: list[tuple[str, str]] = []
    for number, (_, step) in enumerate(plan.steps):
        run(number)
        if number == 0 and not pool.keys_unique:
            repeated = _without_duplicates(plan, pieces)
            run(number)
        for piece in range(pieces):
            counted = step.empty()
            saved = load_state(plan.state_path(number, piece))
            state = {key.removeprefix("state."): value for key, value in saved.items() if key.startswith("state.")}
            counted.load_state_dict({key: value.item() if value.ndim == 0 else value for key, value in state.items()})
            step.merge(counted)
    run(len(steps))
    manifest = {**identity, "digest": digest, "tether": __version__, **_summary(plan, pieces, repeated)}
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(out / STATE)
    return manifest


def _enter(out: Path, digest: str) -> dict[str, Any] | None:
    """The manifest of a finished run of the same settings; refuses a folder of anything else."""
    held = read_json(out / MANIFEST) if (out / MANIFEST).exists() else None
    if held is None and (out / STATE / "plan.json").exists():
        held = {"digest": read_json(out / STATE / "plan.json")["digest"], "unfinished": True}
    if held is None:
        strange = sorted(path.name for path in out.iterdir() if path.name != STATE) if out.is_dir() else []
        strange = [name for name in strange if name != "entries.txt"]
        if strange or (out.exists() and not out.is_dir()):
            raise InputError(f"{out}: expected a new or empty folder, found {', '.join(strange[:3]) or 'a file'}")
        write_json(out / STATE / "plan.json", {"digest": digest})
        return None
    if held.get("digest") != digest:
        raise InputError(
            f"{out}: holds the curation of another pool, of other steps or of another seed; give a new folder or "
            "remove this one"
        )
    if held.get("unfinished"):
        return None
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
        names = [(keys[place], "the key stands earlier in the pool") for place in places]
        if plan.strict:
            raise InputError(f"{plan.pool.name}: bad row {names[0][0]!r}: {names[0][1]}")
        repeated += names
        plan.duplicates[piece] = places
        fates = load_state(plan.state_path(0, piece))["fate"]
        if not (fates != ALIVE).any():  # not yet counted without them
            plan.state_path(0, piece).unlink()
    return repeated


def _summary(plan: Plan, pieces: int, repeated: list[tuple[str, str]]) -> dict[str, Any]:
    bad: dict[str, str] = {}
    fates: Counter[int] = Counter()
    rows, shards, whole = 0, [], hashlib.sha256()
    for piece in range(pieces):
        state = load_state(plan.state_path(len(plan.steps), piece))
        bad |= dict(json.loads(str(state["bad"])))
        rows += int(state["rows"])
        marks, counts = np.unique(state["fate"], return_counts=True)
        fates.update(dict(zip(marks.tolist(), counts.tolist(), strict=True)))
        shard = json.loads(str(state["shard"]))
        whole.update(bytes.fromhex(shard["sha256"]))
        if shard["file"]:
            shards.append(shard)
    lines = [{"source": plan.pool.name, "key": key, "error": reason} for key, reason in [*bad.items(), *repeated]]
    if lines:
        write_text(plan.out / BAD_ROWS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    left = sum(count for mark, count in fates.items() if mark >= ALIVE)
    reports = []
    for number, (name, step) in enumerate(plan.steps):
        refused, thinned = fates[2 * number], fates[2 * number + 1]
        counts = {"name": name, "in": left, "refused": refused, "thinned_out": thinned}
        left -= refused + thinned
        reports.append({**counts, "kept": left, "refusal": step.refusal, "report": step.report()})
    return {
        "rows": {"good": rows - len(repeated), "bad": len(lines), "kept": sum(shard["rows"] for shard in shards)},
        "pairs": {"good": sum(count for mark, count in fates.items() if mark >= ALIVE), "kept": left},
        "by_step": reports,
        "rows_sha256": whole.hexdigest(),
        "shards": shards,
    }
