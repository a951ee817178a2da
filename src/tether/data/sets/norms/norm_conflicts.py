"""Pairs of contract clauses that contradict each other, with the kind of conflict (arXiv 1906.02121)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.printable import quoted
from tether.data.sets.norms.read_table import narrow_marks, read_table
from tether.data.sets.norms.table import NormTable, rows_said

KINDS = ("none", "modality", "structure", "object", "condition")
"""By number: no conflict; same words and another modal verb; same meaning in other words; another object or value; a
condition."""
CONFLICTS, OTHERS = "conflicts.csv", "non_conflicts.csv"
JUDGED = "annotators who wrote the second clause so that it conflicts; it is not one that a court decided"
ORDER = "the second clause of a conflict is the one written later, so order and style give the label away"
NO_OTHERS = "no non_conflicts.csv beside it: kinds of conflict can be told, not whether there is one"


@overload
def load_norm_conflicts(root: str | Path, folds: None = None, *, balanced: bool = True, seed: int = 0) -> NormTable: ...
@overload
def load_norm_conflicts(
    root: str | Path, folds: str | Path, *, balanced: bool = True, seed: int = 0
) -> list[NormTable]: ...
def load_norm_conflicts(
    root: str | Path, folds: str | Path | None = None, *, balanced: bool = True, seed: int = 0
) -> NormTable | list[NormTable]:
    """Read ``conflicts.csv``, and ``non_conflicts.csv`` where it is beside it.

    Fields are ``first`` and ``second``; the group is the contract, so that clauses of one contract stay on one side.
    A ``conf_type`` that is empty is a pair to judge.

    Args:
        root: the folder, or conflicts.csv itself.
        folds: the release's file of folds, such as 10-fold.json: one table a fold comes, with its pairs alone and their
            side as ``split``; where the file has a test of its own, a fold's is ``dev``. Contracts stand on both sides.
        balanced: take as many pairs without conflict as there are conflicts, by a hash of their ids and the seed.
        seed: of that draw.

    Raises:
        InputError: see ``read_table`` and ``NormTable``; a type outside 0 to 4 is named by its row numbers; folds that
            name a pair that is not there.
    """
    if folds is not None:
        return _folds(load_norm_conflicts(root, balanced=False), Path(folds))
    path = Path(root)
    path = path / CONFLICTS if path.is_dir() else path
    parts = [_read(path, default=None)]
    beside = path.with_name(OTHERS)
    if beside.is_file() and beside != path:
        others = _read(beside, default=KINDS[0])
        count = sum(label not in ("", KINDS[0]) for label in parts[0].labels)
        if balanced and len(others) > count:
            order = np.argsort([hash_int(one, seed=seed, salt="norm-conflicts") for one in others.ids], kind="stable")
            others = others.taken(sorted(order[:count]))
        parts.append(others)
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    return NormTable(
        name=str(path.parent),
        fields={name: first.fields[name] + second.fields[name] for name in first.fields},
        labels=first.labels + second.labels,
        classes=KINDS,
        groups=first.groups + second.groups,
        rows=first.rows + second.rows,
        judged=JUDGED,
        ids=tuple(f"{CONFLICTS}:{one}" for one in first.ids) + tuple(f"{OTHERS}:{one}" for one in second.ids),
        remarks=(ORDER,),
    )


def _folds(table: NormTable, path: Path) -> list[NormTable]:
    """Ids of the release's folds: 2 and a conflict_id, or 1 and the row of non_conflicts.csv, counted from 0."""
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: expected folds by name, got {quoted(found)}")
    both = any(one.startswith(f"{OTHERS}:") for one in table.ids)
    rows = {f"2{name.removeprefix(f'{CONFLICTS}:')}": row for row, name in enumerate(table.ids)}
    if both:
        first = next(row for row, name in enumerate(table.ids) if name.startswith(f"{OTHERS}:"))
        rows = {name: row for name, row in rows.items() if row < first}
        rows |= {f"1{row - first}": row for row in range(first, len(table))}

    def rows_of(ids: Any, side: str) -> list[tuple[int, str]]:
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise InputError(f"{path}: expected lists of whole numbers, got {quoted(ids)}")
        if missing := [one for one in ids if str(one) not in rows]:
            why = "" if both else f"; {OTHERS} is not beside {CONFLICTS}"
            raise InputError(f"{path}: pair {missing[0]} and {len(missing) - 1} more are not in {table.name}{why}")
        return [(rows[str(one)], side) for one in ids]

    own = found.pop("test", None)
    tables = []
    for name, fold in found.items():
        if not isinstance(fold, dict) or not {"train", "test"} <= set(fold):
            raise InputError(f"{path}: fold {name!r:.80}: expected train and test, got {quoted(fold)}")
        asked = rows_of(fold["test"], "test" if own is None else "dev")
        sides = rows_of(fold["train"], "train") + asked + ([] if own is None else rows_of(own, "test"))
        some = table.taken(row for row, _ in sides)
        told = (*some.remarks, "contracts stand on both sides of the release's folds")
        tables.append(replace(some, split=tuple(side for _, side in sides), remarks=told))
    return tables


def _read(path: Path, *, default: str | None) -> NormTable:
    need: list[str | tuple[str, ...]] = ["norm1", "norm2"]
    also = ("contract_id", "conf_type", "conflict_id")
    rows, numbers = read_table(path, need=need if default else [*need, *also[:2]], also=also)
    types = [narrow_marks(row.get("conf_type", "")).strip() for row in rows]
    known = {str(number): name for number, name in enumerate(KINDS)} | {"": default or ""}
    if odd := [place for place, value in enumerate(types) if value not in known]:
        said = rows_said([numbers[place] for place in odd])
        raise InputError(f"{path}: conf_type: expected 1 to 4, or 0 for none, got {quoted(types[odd[0]])} in {said}")
    named = next((name for name in ("conflict_id", "id") if name in rows[0]), None)
    ids = tuple(row[named].strip() if named else str(number) for row, number in zip(rows, numbers, strict=True))
    contracts = tuple(
        row.get("contract_id", "").strip() or f"row {number}" for row, number in zip(rows, numbers, strict=True)
    )
    return NormTable(
        name=str(path),
        fields={"first": tuple(row["norm1"] for row in rows), "second": tuple(row["norm2"] for row in rows)},
        labels=tuple(known[value] for value in types),
        classes=KINDS,
        groups=contracts,
        rows=tuple(numbers),
        judged=JUDGED,
        ids=ids,
        remarks=(ORDER,) if default else (ORDER, NO_OTHERS),
    )
