"""What a store asks of rows before it takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.tasks.retrieve.flat_index import unit

KEY, EMBEDDING = "key", "embedding"
DIGEST, MODEL, STORE = b"tether.digest", b"tether.model", b"tether.store"
"""In a schema's metadata: the digest of the model that made the vectors, its name, and what only this store has."""


def said(schema: pa.Schema, name: bytes) -> str:
    """What a schema's metadata say under a name, or the empty string."""
    return (schema.metadata or {}).get(name, b"").decode(errors="replace")


def stored_name(name: str) -> str:
    """A column's name with underscores for dots and backticks, which the store would read as a nested column."""
    return name.replace(".", "_").replace("`", "_")


def require(schema: pa.Schema, *, where: str) -> None:
    """Raise an InputError when a schema lacks keys or vectors, or has a column that no store takes."""
    for name in (KEY, EMBEDDING):
        if name not in schema.names:
            raise InputError(f"{where}: column {name!r} is missing; it has: {', '.join(schema.names)}")
    for name in schema.names:
        if name != stored_name(name):
            raise InputError(f"{where}: column {name!r}: a store takes no dots or backticks; rename it")


def check_schema(schema: pa.Schema, *, where: str) -> None:
    """See that a schema has string keys and vectors of one length."""
    require(schema, where=where)
    kind = schema.field(EMBEDDING).type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise InputError(f"{where}: column {EMBEDDING!r}: expected fixed-size lists of float32, got {kind}")
    if schema.field(KEY).type != pa.string():
        raise InputError(f"{where}: column {KEY!r}: expected strings, got {schema.field(KEY).type}")


def refuse_unknown(rows: pa.Table, *, schema: pa.Schema, where: str) -> None:
    """Raise an InputError when rows have a column that the store has not."""
    unknown = set(rows.column_names) - set(schema.names)
    if unknown:
        raise InputError(f"{where}: unknown column {min(unknown)!r}; known: {', '.join(schema.names)}")


def conform(rows: pa.Table, *, schema: pa.Schema, where: str) -> pa.Table:
    """The rows with exactly the schema's columns, in its order and types; absent metadata is null."""
    refuse_unknown(rows, schema=schema, where=where)
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            if field.name in (KEY, EMBEDDING):
                raise InputError(f"{where}: column {field.name!r} is missing")
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows.column(field.name)
        try:
            if field.name != EMBEDDING:
                column.validate(full=True)  # text that is not UTF-8
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            vectors = field.name == EMBEDDING
            expected = f"vectors of {field.type.list_size} float32" if vectors else f"sound {field.type}"
            raise InputError(f"{where}: column {field.name!r}: expected {expected}, got {column.type}") from None
    return pa.table(columns, schema=schema)


def checked_rows(rows: pa.Table, *, where: str) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    """Keys and unit vectors of rows that fit the schema."""
    keys = rows.column(KEY).to_pylist()
    if None in keys:
        raise InputError(f"{where}: row {keys.index(None)} has no key")
    if len(set(keys)) < len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))
        raise InputError(f"{where}: key {twice!r} comes twice")
    embedding = rows.column(EMBEDDING).combine_chunks()
    if embedding.null_count or embedding.flatten().null_count:
        raise InputError(f"{where}: an embedding is null")
    vectors = embedding.flatten().to_numpy(zero_copy_only=False).reshape(len(keys), embedding.type.list_size)
    return keys, unit(vectors, where=f"{where}: rows from key {keys[0]!r} on" if keys else where)


def checked_batches(tables: Iterable[pa.Table], *, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
    """The tables piece by piece, each conformed and checked."""
    known: set[str] = set()
    for table in tables:
        rows = conform(table, schema=schema, where=where)
        keys, _ = checked_rows(rows, where=where)
        twice = next((key for key in keys if key in known), None)
        if twice is not None:
            raise InputError(f"{where}: key {twice!r} comes twice")
        known.update(keys)
        yield from rows.to_batches()


class Stream:
    """Batches for LanceDB, which reads them in another thread; leaving the block ends what is still read.

    An error of the batches is raised in place of the one that LanceDB makes of it.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> None:
        """Take the batches; nothing is read yet."""
        self._batches, self._schema = batches, schema
        self._failure: BaseException | None = None
        self._stopped = False

    def __enter__(self) -> pa.RecordBatchReader:
        """The stream."""
        return pa.RecordBatchReader.from_batches(self._schema, self._watched())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End it."""
        self._stopped = True
        if isinstance(error, Exception) and self._failure is not None:
            raise self._failure from None

    def _watched(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                if self._stopped:
                    raise InputError("interrupted")
                yield batch
        except BaseException as error:
            self._failure = error
            raise
