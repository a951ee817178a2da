"""Columns of a batch of pairs, asked for by name."""

from __future__ import annotations

import pyarrow as pa

from tether.core.errors import InputError


def column(rows: pa.RecordBatch, name: str) -> pa.Array:
    """One column of a batch.

    Raises:
        InputError: there is none of that name; it lists those that are there.
    """
    if name not in rows.schema.names:
        raise InputError(f"rows: expected a column {name!r}, got {', '.join(rows.schema.names)}")
    return rows.column(name)
