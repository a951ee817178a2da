"""What a person decided about rows of a source: keep, relabel or drop; a CSV file, or an export of Label Studio."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from tether.core.atomic_io import csv_file, read_text
from tether.core.errors import InputError
from tether.core.printable import quoted, unguarded
from tether.data.review import Choice, Decision

COLUMNS = ("key", "kind", "decision", "given", "new")
_SHOWN = 3


def read_decisions(path: str | Path) -> tuple[Decision, ...]:
    """Read a CSV file that the page of ``tether audit`` saved, or a JSON export of Label Studio.

    Args:
        path: ending in ``.csv`` or ``.json``.

    Raises:
        InputError: another file, columns that are missing, a line that cannot be applied, or two different decisions
            about one thing; it names the line.
    """
    file = Path(path)
    if file.suffix.lower() == ".json":
        from tether.data.exchange.label_studio import read_annotations

        return _single(read_annotations(file), where=str(path))
    if file.suffix.lower() != ".csv":
        raise InputError(f"{path}: expected decisions as .csv, or a Label Studio export as .json")
    table = csv.reader(io.StringIO(read_text(file), newline=""))
    try:
        head = next(table, [])
        if missing := [name for name in COLUMNS[:3] if name not in head]:
            raise InputError(
                f"{path}: no column {missing[0]!r}; expected {', '.join(COLUMNS)}, got {quoted(', '.join(head))}"
            )
        found = []
        for cells in table:
            if not cells:
                continue
            if len(cells) != len(head):
                raise InputError(f"{path}: line {table.line_num}: expected {len(head)} cells, got {len(cells)}")
            row = {name: unguarded(cell) for name, cell in zip(head, cells, strict=True)}
            try:
                choice = cast(Choice, row["decision"])  # Decision refuses other words
                found.append(Decision(row["key"], row["kind"], choice, row.get("given", ""), row.get("new", "")))
            except InputError as error:
                raise InputError(f"{path}: line {table.line_num}: {error}") from error
    except csv.Error as error:
        raise InputError(f"{path}: line {table.line_num}: {error}") from error
    return _single(found, where=str(path))


def write_decisions(path: str | Path, decisions: Sequence[Decision]) -> None:
    """Write decisions as the CSV file that ``read_decisions`` reads."""
    with csv_file(path, COLUMNS) as table:
        for one in decisions:
            table.write([one.key, one.kind, one.choice, one.given, one.new])


def _single(decisions: Sequence[Decision], *, where: str) -> tuple[Decision, ...]:
    """One decision about each thing; the same one twice counts once."""
    found: dict[tuple[str, str, str], Decision] = {}
    for one in decisions:
        about = one.key, one.kind, one.given if one.kind == "caption" else ""
        other = found.setdefault(about, one)
        if (other.choice, other.new) != (one.choice, one.new):
            raise InputError(
                f"{where}: key {quoted(one.key)}: two decisions about its {one.kind}: {other.choice} "
                f"{quoted(other.new)} and {one.choice} {quoted(one.new)}"
            )
    return tuple(found.values())


def check_known(decisions: Sequence[Decision], keys: Mapping[str, object] | set[str], *, where: str, of: str) -> None:
    """Refuse decisions about rows that are not there, as those of another data set.

    Raises:
        InputError: it names some of the keys.
    """
    unknown = [key for key in dict.fromkeys(one.key for one in decisions) if key not in keys]
    if unknown:
        named = ", ".join(quoted(key) for key in unknown[:_SHOWN])
        raise InputError(
            f"{where}: {len(unknown)} keys are no rows of {of}: {named}{', ...' if len(unknown) > _SHOWN else ''}; "
            "are the decisions about another data set?"
        )
