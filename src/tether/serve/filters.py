"""Conditions on columns as SQL that can only filter: values are quoted, columns are those of the store."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa

from tether.core.printable import quoted
from tether.serve.refused import RefusedError
from tether.serve.schemas import ColumnFilter, Plain

_WHOLE = {"<": ("<=", math.floor), "<=": ("<=", math.floor), ">": (">=", math.ceil), ">=": (">=", math.ceil)}
_SAID = {"text": "a text", "integer": "a whole number", "number": "a number", "truth": "true or false"}
_LETTERS = 1 << 16  # of all conditions: what reads them needs many times as much memory
_HIDDEN = frozenset({"embedding", "thumbnail"})


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """The columns that may be filtered by: name to ``text``, ``integer``, ``number`` or ``truth``."""
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
    if (length := sum(map(len, parts))) > _LETTERS:
        raise RefusedError(413, f"filters: {length:,} letters; at most {_LETTERS:,} are read", param="filters")
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
    value, op = values[0], given.op
    if kind == "integer" and isinstance(value, float) and op in _WHOLE and math.isfinite(value) and value % 1:
        op, rounded = _WHOLE[op]  # a whole number above 2.5 is one from 3 on
        values = [rounded(value)]
    said = [_value(value, kind, where=where) for value in values]
    if given.op == "in":
        return f"`{given.column}` IN ({', '.join(said)})"
    return f"`{given.column}` {op} {said[0]}"


def _value(value: Plain, kind: str, *, where: str) -> str:
    if kind == "text" and isinstance(value, str):
        return _text(value)
    if kind == "truth" and isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:  # NaN is not
        if kind == "integer" and value == int(value):
            return str(int(value))
        if kind == "number":
            return repr(float(value))
    raise RefusedError(400, f"{where}: expected {_SAID[kind]}, got {quoted(value)}", param=where)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind):
        return "integer"
    return "number" if pa.types.is_floating(kind) else None
