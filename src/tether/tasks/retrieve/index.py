"""Embedding files to a store that can be searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tether.core.errors import InputError
from tether.tasks.retrieve import inverted, mirror, shards
from tether.tasks.retrieve.store import Store

Progress = Callable[[int, int | None], None]
Existing = Literal["refuse", "merge", "replace"]
ROWS_PER_COMMIT = 50_000


def build_index(
    embeddings: Path,
    *,
    out: str | Path,
    existing: Existing = "refuse",
    storage_options: Mapping[str, str] | None = None,
    on_progress: Progress | None = None,
) -> Store:
    """Put the rows of ``tether embed`` into a store.

    Args:
        embeddings: a Parquet file or a folder of them, with ``key`` and ``embedding``; other columns are metadata.
        out: where the store is or shall be; whatever LanceDB accepts.
        existing: what to do about a store that is there: ``refuse``, ``merge`` (new keys are added, known ones
            updated) or ``replace``.
        storage_options: credentials and settings of an object store, as LanceDB takes them.
        on_progress: called with rows written and rows in all.

    Returns:
        The store, compacted, its metadata indexed and, above ``mirror.INDEX_ABOVE`` rows, its vectors too. If it
        cannot be finished, the store is as it was before.

    Raises:
        InputError: no such file, columns are missing, keys come twice, vectors are not finite or of unequal length,
            or the store holds vectors of another model.
    """
    parts = shards.files_of(embeddings)
    schema = _storable(shards.shared_schema(parts), parts=parts)
    total = sum(pq.read_metadata(part).num_rows for part in parts)
    if total == 0:
        raise InputError(f"{embeddings}: holds no rows")
    store, before = _opened(out, schema=schema, existing=existing, storage_options=storage_options)
    done = 0
    try:
        for rows in shards.batches(parts, schema=schema, rows=ROWS_PER_COMMIT):
            if existing == "merge":
                store.put(rows)
            else:
                store.add(rows)
            done += rows.num_rows
            if on_progress is not None:
                on_progress(done, total)
    except BaseException:
        store.restore(before)
        raise
    store.compact()
    store.index_columns()
    if len(store) > mirror.INDEX_ABOVE and inverted.available():
        store.warm().index()
    return store


def _opened(
    out: str | Path, *, schema: pa.Schema, existing: Existing, storage_options: Mapping[str, str] | None
) -> tuple[Store, int]:
    """The store to write to, and the version to go back to when that fails."""
    if existing == "merge":
        store = Store.open(out, storage_options=storage_options)
        digest = (schema.metadata or {}).get(b"tether.digest", b"").decode()
        if digest != store.digest:
            raise InputError(f"{out}: holds vectors of model {store.digest!r}, these are of {digest!r}")
        return store, store.version
    before = None
    if existing == "replace":
        try:
            before = Store.open(out, storage_options=storage_options).version
        except InputError:  # nothing to replace
            before = None
    store = Store.create(out, schema=schema, overwrite=existing == "replace", storage_options=storage_options)
    return store, store.version if before is None else before


def _storable(schema: pa.Schema, *, parts: list[Path]) -> pa.Schema:
    """The schema with vectors as fixed-size lists of float32, whatever kind of list of floats they came as."""
    for name in ("key", "embedding"):
        if name not in schema.names:
            raise InputError(f"{parts[0]}: column {name!r} is missing; it has: {', '.join(schema.names)}")
    kind = schema.field("embedding").type
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        first = next(pq.ParquetFile(parts[0]).iter_batches(batch_size=1, columns=["embedding"]), None)
        size = 0 if first is None or first.column(0)[0].as_py() is None else len(first.column(0)[0])
    else:
        raise InputError(f"{parts[0]}: column 'embedding': expected lists of float32, got {kind}")
    if size == 0:
        raise InputError(f"{parts[0]}: column 'embedding': the first vector is empty")
    at = schema.get_field_index("embedding")
    return schema.set(at, pa.field("embedding", pa.list_(pa.float32(), size)))
