"""The different values of a column of a store."""

from __future__ import annotations

from typing import Any

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.tasks.retrieve import lance
from tether.tasks.retrieve.store import Store


@checked
def distinct(store: Store, column: str, *, most: Count) -> list[Any] | None:
    """The values of a column of texts or truths, sorted, without nulls; None where they are more than ``most``.

    Raises:
        InputError: no such column.
    """
    if column not in store.schema.names:
        raise InputError(f"{store.uri}: no column {column!r}; it has: {', '.join(store.schema.names)}")
    found: set[Any] = set()
    with lance.reading(store.uri):
        table = lance.table_of(store.uri, None)
        if table is None:
            raise InputError(f"{store.uri}: the store is gone")
        for batch in table.search().select([column]).limit(max(table.count_rows(), 1)).to_batches():
            found.update(batch.column(column).unique().to_pylist())
            if len(found) > most + 1:
                return None
    found.discard(None)
    return sorted(found) if len(found) <= most else None
