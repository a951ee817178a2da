"""A LanceDB table of embeddings with their metadata: add, update, delete and search without a rebuild.

The table is the only truth: versioned, each write is one atomic commit; in a local folder
one process writes at a time. A copy of the unit vectors in memory (``memory_index.py``) answers the queries.
"""

from __future__ import annotations

import contextlib
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError, TetherError
from tether.core.locks import is_lock
from tether.core.ranges import Count, checked
from tether.tasks.retrieve import lance
from tether.tasks.retrieve.flat_index import How, Ranking, unit
from tether.tasks.retrieve.lance import TABLE, WriteLock
from tether.tasks.retrieve.memory_index import Mirror
from tether.tasks.retrieve.rows import (
    DIGEST,
    EMBEDDING,
    KEY,
    MODEL,
    STORE,
    Stream,
    check_schema,
    checked_batches,
    checked_rows,
    conform,
    refuse_unknown,
    said,
)

FINISHED_BY_INDEX = b"tether.finished_by_index"
"""In the schema of a store that is finished only when its keys have an index."""
COMPACT_EVERY = 100  # versions; each write makes one and a few small files
KEEP_VERSIONS = timedelta(minutes=30)  # so that a reader in another process can finish what it began
KEYS_PER_DELETE = 5_000  # keys named in one SQL expression
BITMAP_BELOW = 1_000  # distinct values up to which a bitmap is the better scalar index


class NoRowError(InputError):
    """A key that the store does not have."""


class Store:
    """Embeddings, texts, metadata and thumbnails under unique keys, searched by cosine similarity.

    Several processes may read while one writes; a reader sees each finished write at its next call. In a local folder
    a second writer waits for a few seconds and is then refused; on an object store let one process write at a time.
    """

    def __init__(self, table: Any, *, uri: str, lock: WriteLock | None = None) -> None:
        """Wrap an open LanceDB table; ``Store.create`` and ``Store.open`` are the usual ways."""
        self._table = table
        self.uri = uri
        self.lock = lock or WriteLock(uri)
        field = table.schema.field(EMBEDDING)
        self.dim: int = field.type.list_size
        self._digest = self.digest
        self._mirror: Mirror | None = None
        self._position: dict[str, int] | None = None
        self._version = -1  # the version whose keys are known, when there is no mirror

    @classmethod
    def create(
        cls,
        uri: str | Path,
        *,
        schema: pa.Schema,
        rows: Iterable[pa.Table] = (),
        overwrite: bool = False,
        storage_options: Mapping[str, str] | None = None,
        lock: WriteLock | None = None,
    ) -> Store:
        """Make a store; it is there with all its rows, or, when this fails or is killed, what was there before is.

        Args:
            uri: a folder, or whatever LanceDB accepts (``s3://``, ``gs://``, ``az://``, ``db://``).
            schema: Arrow schema with ``key`` (string) and ``embedding`` (fixed-size list of float32); further columns
                are metadata. Its metadata carries the model's name and digest.
            rows: what it holds from the start, as for ``add``; read once, in another thread.
            overwrite: replace a store that is already there; an empty or unfinished one is replaced anyway.
            storage_options: credentials and settings of an object store, as LanceDB takes them.
            lock: of this store, where the caller holds one.

        Raises:
            InputError: rows are refused as by ``add``, or a store is already there.
            LockedError: another process writes there.
            WriteError: a full disk, no permission.
        """
        check_schema(schema, where=str(uri))
        schema = schema.with_metadata({**(schema.metadata or {}), STORE: uuid.uuid4().hex.encode()})
        lock = lock or WriteLock(uri)
        with lock.held(), lance.writing(uri):
            lance.remove_leftovers(uri)
            there = lance.table_of(uri, storage_options)
            if not overwrite and there is not None and there.count_rows() and not _unfinished(there):
                raise InputError(
                    f"{uri}: already holds a store; add to it (--existing merge) or replace it (--existing replace)"
                )
            with Stream(checked_batches(rows, schema=schema, where=str(uri)), schema=schema) as reader:
                mode = "create" if there is None else "overwrite"
                database = lance.connect(uri, storage_options)
                table = database.create_table(TABLE, data=reader, schema=schema, mode=mode)
        return cls(table, uri=str(uri), lock=lock)

    @classmethod
    def open(cls, uri: str | Path, *, storage_options: Mapping[str, str] | None = None) -> Store:
        """Open a store that is there.

        Raises:
            InputError: there is none at ``uri``, it was not finished, or it cannot be read.
        """
        folder, how = lance.folder_of(uri), f"tether index EMBEDDINGS --out {uri}"
        if folder is not None and not folder.is_dir():
            raise InputError(f"{uri}: no such store; make one with: {how}")
        with lance.reading(uri):
            table = lance.table_of(uri, storage_options)
            if table is None and folder is not None and any(map(is_lock, folder.iterdir())):
                raise InputError(f"{uri}: the store was not finished; make it with: {how}")
            if table is None:
                raise InputError(f"{uri}: holds no table {TABLE!r}; make one with: {how}")
            check_schema(table.schema, where=str(uri))
            return cls(table, uri=str(uri))

    def __len__(self) -> int:
        """Rows in the newest version."""
        with lance.reading(self.uri):
            self._table.checkout_latest()
            return self._table.count_rows()

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the table."""
        return self._table.schema

    @property
    def digest(self) -> str:
        """Digest of the model that made the vectors, or the empty string."""
        return said(self.schema, DIGEST)

    @property
    def model(self) -> str:
        """Name under which that model was loaded, or the empty string; to load it again, see ``model_uri.near``."""
        return said(self.schema, MODEL)

    @property
    def version(self) -> int:
        """Number of the newest version; rises with every write."""
        self._table.checkout_latest()
        return self._table.version

    def add(self, rows: pa.Table) -> None:
        """Add rows with new keys; when this returns they survive the end of the process.

        Args:
            rows: ``key``, ``embedding`` and any of the store's other columns; absent ones become null.

        Raises:
            InputError: a key is already there or comes twice, or a row does not fit the schema.
            LockedError: another process writes, and still does after ten seconds.
            WriteError: a full disk, no permission; the store is unchanged.
        """
        rows = conform(rows, schema=self.schema, where=self.uri)
        if rows.num_rows == 0:
            return
        keys, vectors = checked_rows(rows, where=self.uri)
        with self.lock.held():
            known = self._positions()
            present = [key for key in keys if key in known]
            if present:
                raise InputError(f"{self.uri}: key {present[0]!r} is already there ({len(present)} such); use update")
            with lance.writing(self.uri):
                self._table.add(rows)
            self._mirrored(keys, vectors)

    def update(self, rows: pa.Table) -> None:
        """Replace columns of rows that are there.

        Args:
            rows: ``key`` and the columns to replace, in one commit.

        Raises:
            InputError: a key is not there or comes twice, or as for ``add``.
            LockedError: as for ``add``.
            WriteError: as for ``add``.
        """
        self._merge(rows, insert=False)

    def put(self, rows: pa.Table) -> None:
        """Update the rows whose keys are there and add the others, in one commit; errors as for both."""
        self._merge(rows, insert=True)

    def _merge(self, rows: pa.Table, *, insert: bool) -> None:
        if rows.num_rows == 0:
            return
        if KEY not in rows.column_names:
            raise InputError(f"{self.uri}: column {KEY!r} is missing")
        refuse_unknown(rows, schema=self.schema, where=self.uri)
        with self.lock.held():
            known, keys = self._positions(), rows.column(KEY).to_pylist()
            there = [key for key in keys if key in known]
            if not insert:
                self._require(keys, known)
            absent = [name for name in self.schema.names if name not in rows.column_names]
            if absent and there:
                old = self.records(list(dict.fromkeys(there)), columns=absent)
                place = {key: i for i, key in enumerate(old.column(KEY).to_pylist())}
                old = old.take(pa.array([place.get(key) for key in keys], pa.int64()))
                if len(there) < len(keys) and EMBEDDING in absent:
                    raise InputError(f"{self.uri}: column {EMBEDDING!r} is missing")
                for name in absent:
                    rows = rows.append_column(name, old.column(name))
            rows = conform(rows, schema=self.schema, where=self.uri)
            keys, vectors = checked_rows(rows, where=self.uri)
            merge = self._table.merge_insert(KEY).when_matched_update_all()
            with lance.writing(self.uri):
                (merge.when_not_matched_insert_all() if insert else merge).execute(rows)
            self._mirrored(keys, vectors, gone=there)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove rows by key.

        Raises:
            InputError: a key is not there; nothing is removed then.
            LockedError: as for ``add``.
            WriteError: as for ``add``; of more than 5,000 keys, those before may be removed.
        """
        with self.lock.held():
            self._require(keys, self._positions())
            keys = list(dict.fromkeys(keys))
            for start in range(0, len(keys), KEYS_PER_DELETE):
                some = keys[start : start + KEYS_PER_DELETE]
                with lance.writing(self.uri):
                    self._table.delete(_one_of(some))
                self._mirrored([], None, gone=some)

    @checked
    def search(
        self,
        query: Float[np.ndarray, " d"],
        *,
        top: Count = 10,
        where: str | None = None,
        how: How | None = None,
        dims: Count | None = None,
        shortlist: Count | None = None,
    ) -> Ranking:
        """The rows whose vectors are nearest to a query.

        Args:
            query: vector of any length; only its direction counts.
            top: how many rows.
            where: SQL condition on the metadata, e.g. ``"label = 'cat' AND year > 2020"``. It is applied first, and
                what passes is compared exactly, so a filter never costs recall.
            how: ``exact`` compares with every row; ``index`` asks the index; None lets the number of rows decide.
            dims: compare the first so many numbers of each vector alone, every row; the rest is as good as absent.
            shortlist: with ``dims``, how many of the best by them are then ranked by all numbers; at least ``top``.

        Raises:
            InputError: the store is empty, LanceDB does not understand the filter, more ``dims`` than there are, or a
                shortlist without them.
        """
        if dims is not None and dims > self.dim:
            raise InputError(f"{self.uri}: dims: expected at most the {self.dim} numbers of its vectors, got {dims}")
        if dims is not None and how == "index":
            raise InputError(f"{self.uri}: dims: are compared with every row; the index has none")
        if shortlist is not None and dims is None:
            raise InputError("shortlist: needs dims (--dims) beside it: how many numbers choose the short list")
        if shortlist is not None and shortlist < top:
            raise InputError(f"shortlist: expected at least top, {top}, got {shortlist}")
        query = np.asarray(query)
        if query.shape != (self.dim,):
            raise InputError(f"{self.uri}: expected a query of shape ({self.dim},), got {query.shape}")
        if where is not None and ";" in re.sub(r"'(?:[^']|'')*'", "", where):
            raise InputError(f"filter {where!r}: expected one condition, got ';'")  # LanceDB ignores what follows it
        query = unit(query[None], where="query")[0]
        mirror = self.warm()
        if not mirror.vectors.alive.any():
            raise InputError(f"{self.uri}: the store holds no rows; add some first")
        with lance.reading(self.uri) if where is None else _filtering(where, columns=self.schema.names):
            if dims is not None:
                return mirror.search_narrow(query, dims=dims, shortlist=shortlist, top=top, where=where)
            return mirror.search(query, top=top, where=where, how=how)

    def warm(self) -> Mirror:
        """Bring the vectors into memory, as they stand in the newest version.

        Raises:
            InputError: the store is damaged, or was replaced by one of other vectors since it was opened.
        """
        with lance.reading(self.uri):
            self._table.checkout_latest()
            if self._mirror is None or self._mirror.worn or self._mirror.version != self._table.version:
                if (self._table.schema.field(EMBEDDING).type.list_size, self.digest) != (self.dim, self._digest):
                    raise InputError(f"{self.uri}: was replaced by vectors of another model; open it again")
                self._mirror = Mirror(self._table, dim=self.dim, where=self.uri)
                self._position = None
        return self._mirror

    def records(self, keys: Sequence[str], *, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by key, in the order of the keys.

        Args:
            keys: of rows in the store.
            columns: which columns; all when None. ``key`` always comes along.

        Raises:
            NoRowError: a key is not there.
            InputError: the store cannot be read.
        """
        with lance.reading(self.uri):
            self._table.checkout_latest()
            names = self.schema.names if columns is None else list(dict.fromkeys([KEY, *columns]))
            parts = [self._table.schema.empty_table().select(names)]
            for start in range(0, len(keys), KEYS_PER_DELETE):
                some = keys[start : start + KEYS_PER_DELETE]
                query = self._table.search().where(_one_of(some)).select(names).limit(len(some))
                parts.append(query.to_arrow().select(names))
            found = pa.concat_tables(parts)
            place = {key: i for i, key in enumerate(found.column(KEY).to_pylist())}
            self._require(keys, place)
            return found.take(pa.array([place[key] for key in keys], type=pa.int64()))

    def _require(self, keys: Sequence[str], known: Mapping[str, int]) -> None:
        missing = [key for key in keys if key not in known]
        if missing:
            raise NoRowError(f"{self.uri}: no row with key {missing[0]!r} ({len(missing)} such)")

    def restore(self, version: int) -> None:
        """Make an earlier version the newest one again.

        Raises:
            InputError: that version never was, or was dropped when the store was compacted.
        """
        with self.lock.held():
            try:
                self._table.checkout(version)
            except (ValueError, RuntimeError, OSError) as error:
                self._table.checkout_latest()
                raise InputError(
                    f"{self.uri}: there is no version {version} (any more): {lance.plain(error)}"
                ) from error
            with lance.writing(self.uri):
                self._table.restore()
            self._table.checkout_latest()
            self._mirror = self._position = None

    def compact(self, *, keep: timedelta = KEEP_VERSIONS) -> None:
        """Join small files, bring scalar indices up to date, and drop versions and strays older than ``keep``."""
        with self.lock.held(), lance.writing(self.uri):
            lance.remove_leftovers(self.uri)
            alone = lance.folder_of(self.uri) is not None
            self._table.optimize(cleanup_older_than=keep, delete_unverified=alone)
            if self._mirror is not None:
                self._mirror.forget(version=self._table.version)

    def index_columns(self) -> None:
        """Give each metadata column that a filter may name a scalar index, so that filters need not read it whole."""
        from lancedb.index import Bitmap, BTree

        with self.lock.held(), lance.writing(self.uri):
            for field in sorted(self.schema, key=lambda field: field.name == KEY):  # that of the keys says: finished
                if pa.types.is_string(field.type) and field.name != KEY:
                    values = self._table.search().select([field.name]).limit(max(len(self), 1)).to_arrow()[field.name]
                    kind = Bitmap() if len(values.unique()) <= BITMAP_BELOW else BTree()
                elif field.name == KEY or pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
                    kind = BTree()
                elif pa.types.is_boolean(field.type):
                    kind = Bitmap()
                else:
                    continue
                self._table.create_index(field.name, config=kind, replace=True)
            if self._mirror is not None:
                self._mirror.forget(version=self._table.version)

    def _positions(self) -> dict[str, int]:
        """Key to position in the mirror (or any number, without one), for the newest version."""
        with lance.reading(self.uri):
            self._table.checkout_latest()
        if self._mirror is not None:
            mirror = self.warm()
            if self._position is None:
                alive = mirror.vectors.alive
                self._position = {key: i for i, key in enumerate(mirror.keys) if alive[i]}
        elif self._position is None or self._version != self._table.version:
            with lance.reading(self.uri):
                found = self._table.search().select([KEY]).limit(max(self._table.count_rows(), 1)).to_arrow()
                self._position = {key: i for i, key in enumerate(found.column(KEY).to_pylist())}
        return self._position

    def _mirrored(self, keys: Sequence[str], vectors: Any, *, gone: Sequence[str] = ()) -> None:
        """Take over what was just written: rows removed or replaced, rows added at the end."""
        known, mirror, start = self._position, self._mirror, 0
        assert known is not None
        if mirror is not None:
            start = len(mirror.keys)
            mirror.remove(np.array([known[key] for key in gone], dtype=np.int64), version=self._table.version)
            if keys:
                mirror.append(list(keys), vectors, version=self._table.version)
        for key in gone:
            known.pop(key, None)
        known.update((key, start + i) for i, key in enumerate(keys))
        self._tidy()

    def _tidy(self) -> None:
        self._version = self._table.version
        if self._version % COMPACT_EVERY == 0:
            try:
                self.compact()
            except TetherError as error:  # what was written stands; the next hundredth version tries again
                warnings.warn(f"not compacted: {error}", stacklevel=3)
            self._version = self._table.version


def _unfinished(table: Any) -> bool:
    """Whether a store shows that ``build_index`` was killed before its last step."""
    return FINISHED_BY_INDEX in (table.schema.metadata or {}) and not any(
        KEY in index.columns for index in table.list_indices()
    )


@contextlib.contextmanager
def _filtering(where: str, *, columns: Sequence[str]) -> Iterator[None]:
    """Say what is wrong with a filter."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, TetherError):
            raise
        raise InputError(f"filter {where!r}: {lance.plain(error)}; columns: {', '.join(columns)}") from error


def _one_of(keys: Sequence[str]) -> str:
    """SQL condition: the key is one of these."""
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
    return f"{KEY} IN ({quoted})"
