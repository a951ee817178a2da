"""What a finished curation says of itself: counts and examples of every step, flags, licences, shards, digests."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether.core.atomic_io import read_json, write_text
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.shape import MAYBE_NUMBER, check
from tether.data.curate.engine.batch import Example
from tether.data.curate.engine.partition_state import load_state
from tether.data.curate.engine.plan import Plan
from tether.data.curate.engine.step import ColumnStep, CurateStep, FlagStep, RecipeStep

BAD_ROWS = "bad_rows.jsonl"
_EXAMPLES = 8
"""Examples of each kind in the manifest."""
_LICENCES = 50
"""Licences counted by name; the others are counted together."""
_BOTH = {"pool": int, "kept": int}
_MANIFEST = {
    **dict.fromkeys(("written_as", "digest", "recipe_sha256", "tether", "rows_sha256"), str),
    "seed": int,
    "pool": {"name": str, "version": str},
    "steps": [{"name": str}],
    "rows": {"good": int, "bad": int, "kept": int},
    "pairs": {"good": int, "kept": int},
    "by_step": [
        {
            "name": str,
            "kind": str,
            "in": int,
            "kept": int,
            "examples": {"*": [{"key": str, "text": (str, None), "new?": (str, None)}]},
            "report": dict.fromkeys(("t?", "tail_share?", "entries_hit?"), MAYBE_NUMBER),
        }
    ],
    "licences": (None, {"column": str, "values": {"*": _BOTH}, "others": {"values": int, **_BOTH}}),
    "shards": [{"file": str, "rows": int, "pairs": int}],
}
_KINDS = {
    "curator": {"refused": int, "thinned_out": int, "refusal": str},
    "flag": {"flagged": int, "labels": {"*": int}},
    "rewriter": {"rewritten": int},
    "columns": {"added": [str]},
}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished curation.

    Raises:
        InputError: no such file, or one that lacks what a manifest has; it names the key.
    """
    values = read_json(path)
    check(values, _MANIFEST, where=str(path))
    for step in values["by_step"]:
        if step["kind"] not in _KINDS:
            raise InputError(f"{path}: by_step: kind: expected one of {', '.join(_KINDS)}, got {step['kind']!r:.80}")
        check(step, _KINDS[step["kind"]], where=f"{path}: by_step: {step['name']}")
    return values


def summary(plan: Plan, pieces: int, repeated: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The counts of a plan whose last pass is done; also writes ``bad_rows.jsonl``."""
    bad: list[tuple[str, str]] = []
    labels: dict[int, Counter[str]] = {}
    licences: Counter[tuple[str, int]] = Counter()
    examples: list[Example] = []
    rows = pairs = kept = 0
    tally = np.zeros((len(plan.steps), 3), np.int64)
    shards, whole = [], hashlib.sha256()
    for piece in range(pieces):
        state = load_state(plan.state_path(len(plan.passes) - 1, piece))
        bad += [(key, reason) for key, reason in json.loads(str(state["bad"]))]
        rows, pairs, kept = rows + int(state["rows"]), pairs + int(state["pairs"]), kept + int(state["kept"])
        tally += state["tally"]
        examples += json.loads(str(state["examples"]))
        notes = json.loads(str(state["notes"]))
        for step, counts in notes["labels"].items():
            labels.setdefault(int(step), Counter()).update(counts)
        for name, both in notes["licences"].items():
            licences.update({(name, place): count for place, count in enumerate(both)})
        shard = json.loads(str(state["shard"]))
        whole.update(bytes.fromhex(shard["sha256"]))
        if shard["file"]:
            shards.append(shard)
    lines = [{"source": plan.pool.name, "key": key, "error": reason} for key, reason in [*bad, *repeated]]
    if lines:
        write_text(plan.out / BAD_ROWS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    reports = [
        _of_step(number, name, step, tally[number].tolist(), labels.get(number, Counter()))
        | {"examples": _chosen(examples, number)}
        for number, (name, step) in enumerate(plan.steps)
    ]
    return {
        "rows": {"good": rows - len(repeated), "bad": len(lines), "kept": sum(shard["rows"] for shard in shards)},
        "pairs": {"good": pairs, "kept": kept},
        "by_step": reports,
        "licences": None if plan.licence is None else {"column": plan.licence} | _licences(licences),
        "rows_sha256": whole.hexdigest(),
        "shards": shards,
    }


def _of_step(
    number: int, name: str, step: RecipeStep, counts: Sequence[int], labels: Mapping[str, int]
) -> dict[str, Any]:
    asked, first, second = counts
    if isinstance(step, CurateStep):
        found = {"kind": "curator", "in": asked, "refused": first, "thinned_out": second}
        # A step that nothing has reached has counted nothing, and may have nothing to say.
        said = step.report() if asked else {}
        found |= {"kept": asked - first - second, "refusal": step.refusal, "report": said}
    elif isinstance(step, FlagStep):
        found = {"kind": "flag", "in": asked, "flagged": first, "kept": asked}
        found |= {"labels": dict(sorted(labels.items(), key=lambda each: (-each[1], each[0]))), "report": {}}
    elif isinstance(step, ColumnStep):
        found = {"kind": "columns", "in": asked, "kept": asked, "added": step.adds.names, "report": {}}
    else:
        found = {"kind": "rewriter", "in": asked, "rewritten": first, "kept": second, "report": {}}
    return {"name": name, **found}


def _chosen(examples: Sequence[Example], number: int) -> dict[str, list[dict[str, str | None]]]:
    """A few examples of each kind, drawn by the key so that no piece is preferred."""
    found: dict[str, list[tuple[int, str, dict[str, str | None]]]] = {}
    for step, what, key, text, new in examples:
        if step == number:
            shown = {"key": key, "text": text} | ({"new": new} if what == "rewritten" else {})
            found.setdefault(what, []).append((hash_int(key, salt="example"), key, shown))
    return {what: [shown for *_, shown in sorted(each, key=lambda one: one[:2])[:_EXAMPLES]]
            for what, each in sorted(found.items())}  # fmt: skip


def _licences(counts: Counter[tuple[str, int]]) -> dict[str, Any]:
    """Rows of the pool and of what is kept by licence, most frequent first; the empty name stands for none given."""
    names = sorted({name for name, _ in counts}, key=lambda name: (-counts[name, 0], name))
    found = {name: {"pool": counts[name, 0], "kept": counts[name, 1]} for name in names[:_LICENCES]}
    others = {
        where: sum(counts[name, place] for name in names[_LICENCES:]) for place, where in enumerate(("pool", "kept"))
    }
    return {"values": found, "others": {"values": len(names[_LICENCES:]), **others}}
