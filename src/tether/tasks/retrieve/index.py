"""Embedding files to a store that can be searched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa

from tether.core.errors import InputError, TetherError, WriteError
from tether.data.features import parquet
from tether.tasks.retrieve import ivf_index, memory_index, shards
from tether.tasks.retrieve.lance import TABLE, WriteLock
from tether.tasks.retrieve.object_store import files_here
from tether.tasks.retrieve.rows import DIGEST, checked_batches, conform, require, said
from tether.tasks.retrieve.store import FINISHED_BY_INDEX, Store

Progress = Callable[[int, int | None], None]
Existing = Literal["refuse", "merge", "replace"]
ROWS_PER_COMMIT = 50_000


def build_index(
    embeddings: Path | str,
    *,
    out: str | Path,
    existing: Existing = "refuse",
    storage_options: Mapping[str, str] | None = None,
    on_progress: Progress | None = None,
) -> Store:
    """Put the rows of ``tether embed`` into a store.

    Args:
        embeddings: a Parquet file or a folder of them, with ``key`` and ``embedding``; other columns are metadata. Of
            a URL that ``tether embed`` wrote to, copies are made for as long as it takes.
        out: where the store is or shall be; whatever LanceDB accepts.
        existing: what to do about a store that is there: ``refuse``, ``merge`` (new keys are added, known ones
            updated) or ``replace``.
        storage_options: credentials and settings of an object store, as LanceDB takes them.
        on_progress: called with rows written and rows in all.

    Returns:
        The store, compacted, its metadata indexed and, above ``memory_index.INDEX_ABOVE`` rows, its vectors too. All
        rows of a new store appear at once: before that moment what was there before is unchanged, whatever happens. A
        merge is written in pieces of ``ROWS_PER_COMMIT``, after all rows were checked; what is there of one that was
        stopped stays, and the same call finishes it.

    Raises:
        InputError: no such file, or rows that do not fit each other or the store: keys twice, another model.
        LockedError: another process writes to the store.
        WriteError: a full disk, no permission.
    """
    with files_here(embeddings) as parts:
        return _built(
            parts, where=str(embeddings), out=out, existing=existing, options=storage_options, on_progress=on_progress
        )


def _built(
    parts: list[Path],
    *,
    where: str,
    out: str | Path,
    existing: Existing,
    options: Mapping[str, str] | None,
    on_progress: Progress | None,
) -> Store:
    schema = _storable(shards.shared_schema(parts), parts=parts)
    total = sum(parquet.rows_in(part) for part in parts)
    if total == 0:
        raise InputError(f"{where}: holds no rows")
    _check_place(out)
    tell = on_progress or (lambda done, total: None)
    if existing == "merge":
        store = Store.open(out, storage_options=options)
        with store.lock.held(purpose="tether index", wait=0):
            _merge(parts, schema=schema, store=store, total=total, tell=tell)
            _finish(store)
        return store
    schema = schema.with_metadata({**(schema.metadata or {}), FINISHED_BY_INDEX: b"1"})
    lock = WriteLock(out)
    with lock.held(purpose="tether index", wait=0):
        store = Store.create(
            out,
            schema=schema,
            rows=_counted(parts, schema=schema, total=total, tell=tell),
            overwrite=existing == "replace",
            storage_options=options,
            lock=lock,
        )
        _finish(store)
    return store


def _check_place(out: str | Path) -> None:
    """Refuse a folder of something else: a store would lie among a user's images, or in a run."""
    if "://" in str(out) or not Path(out).exists():
        return
    if not Path(out).is_dir():
        raise InputError(f"{out}: a file; expected a new folder or a store")
    own = (f"{TABLE}.lance", "rebuildable")
    if other := sorted(path.name for path in Path(out).iterdir() if path.name not in own and path.name[0] != "."):
        raise InputError(f"{out}: holds other files ({', '.join(other[:3])}); expected a new folder or a store")


def _merge(parts: list[Path], *, schema: pa.Schema, store: Store, total: int, tell: Progress) -> None:
    digest = said(schema, DIGEST)
    if digest != store.digest:
        raise InputError(f"{store.uri}: holds vectors of model {store.digest!r}, these are of {digest!r}")
    conform(schema.empty_table(), schema=store.schema, where=store.uri)
    rows = shards.batches(parts, schema=schema, rows=ROWS_PER_COMMIT)
    for _ in checked_batches(rows, schema=schema, where=store.uri):
        pass  # what is wrong with them is found before anything is written
    done = 0
    try:
        for batch in _counted(parts, schema=schema, total=total, tell=tell):
            store.put(batch)
            done += batch.num_rows
    except WriteError as error:
        how = f"{done:,} of {total:,} rows were merged; the same command merges the others"
        raise TetherError(f"{error}; {how}") from error


def _finish(store: Store) -> None:
    store.compact()
    store.index_columns()
    if len(store) > memory_index.INDEX_ABOVE and ivf_index.available():
        store.warm().index()


def _counted(parts: list[Path], *, schema: pa.Schema, total: int, tell: Progress) -> Iterator[pa.Table]:
    """The rows of all parts, a commit of them at a time; what was taken is told."""
    done = 0
    for rows in shards.batches(parts, schema=schema, rows=ROWS_PER_COMMIT):
        yield rows
        done += rows.num_rows
        tell(done, total)


def _storable(schema: pa.Schema, *, parts: list[Path]) -> pa.Schema:
    """The schema with vectors as fixed-size lists of float32, whatever kind of list of floats they came as."""
    require(schema, where=str(parts[0]))
    kind = schema.field("embedding").type
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        first = next((rows["embedding"][0] for rows in parquet.groups(parts[0], rows=1)), None)
        size = 0 if first is None or not first.is_valid else len(first)
    else:
        raise InputError(f"{parts[0]}: column 'embedding': expected lists of float32, got {kind}")
    if size == 0:
        raise InputError(f"{parts[0]}: column 'embedding': the first vector is empty")
    at = schema.get_field_index("embedding")
    return schema.set(at, pa.field("embedding", pa.list_(pa.float32(), size)))
