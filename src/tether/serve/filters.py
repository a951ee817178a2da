"""Conditions on columns as SQL that can only filter: values are quoted, columns are those of the store."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tether.core.printable import quoted
from tether.serve.refused import RefusedError
from tether.serve.schemas import ColumnFilter, Plain

_HIDDEN = frozenset({"embedding", "thumbnail"})


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """The columns that may be filtered by: name to ``text``, ``number`` or ``truth``."""
    found = {}
    for column in schema:
        kind = _kind(column.type)
        if column.name not in _HIDDEN and kind is not None and "`" not in column.name:
            found[column.name] = kind
    return found


def condition_of(filters: Sequence[ColumnFilter], columns: dict[str, str]) -> str | None:
    """All conditions as one of SQL; None for none.

    Args:
        filters: of the request.
        columns: see ``columns_of``.

    Raises:
        RefusedError: no such column, or a value of another kind than the column's.
    """
    parts = [_one(each, columns, where=f"filters[{place}]") for place, each in enumerate(filters)]
    return " AND ".join(parts) if parts else None


def _one(given: ColumnFilter, columns: dict[str, str], *, where: str) -> str:
    kind = columns.get(given.column)
    if kind is None:
        known = ", ".join(columns) or "none"
        raise RefusedError(400, f"{where}: no column {quoted(given.column)}; columns: {known}", param=where)
    values = given.value if isinstance(given.value, list) else [given.value]
    if isinstance(given.value, list) != (given.op == "in"):
        raise RefusedError(400, f"{where}: a list of values goes with op in, one value with the others", param=where)
    if given.op == "contains":
        if kind != "text" or not isinstance(values[0], str):
            raise RefusedError(400, f"{where}: contains is for columns of text", param=where)
        return f"contains(lower(`{given.column}`), {_text(values[0].lower())})"
    said = [_value(value, kind, where=where) for value in values]
    if given.op == "in":
        return f"`{given.column}` IN ({', '.join(said)})"
    return f"`{given.column}` {given.op} {said[0]}"


def _value(value: Plain, kind: str, *, where: str) -> str:
    if kind == "text" and isinstance(value, str):
        return _text(value)
    if kind == "truth" and isinstance(value, bool):
        return str(value).lower()
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        return repr(value)  # NaN and infinity are not below it
    raise RefusedError(400, f"{where}: expected a {kind}, got {quoted(value)}", param=where)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "truth"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None
