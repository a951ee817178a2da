"""A LanceDB table of embeddings with their metadata: add, update, delete and search without a rebuild.

The table is the only truth: versioned, each write is one commit that a kill leaves whole or absent. A copy of the unit
vectors in memory (``mirror.py``) answers the queries.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError, TetherError
from tether.tasks.retrieve.mirror import Mirror
from tether.tasks.retrieve.ranking import How, Ranking
from tether.tasks.retrieve.rows import EMBEDDING, KEY, check_schema, checked, conform, refuse_unknown
from tether.tasks.retrieve.vectors import unit

TABLE = "embeddings"
DIGEST, MODEL = b"tether.digest", b"tether.model"
COMPACT_EVERY = 100  # versions; each write makes one and a few small files
KEEP_VERSIONS = timedelta(minutes=30)  # so that a reader in another process can finish what it began
KEYS_PER_DELETE = 5_000  # keys named in one SQL expression
BITMAP_BELOW = 1_000  # distinct values up to which a bitmap is the better scalar index


class Store:
    """Embeddings, texts, metadata and thumbnails under unique keys, searched by cosine similarity.

    Several processes may read while one writes; a reader sees each finished write at its next call.
    """

    def __init__(self, table: Any, *, uri: str) -> None:
        """Wrap an open LanceDB table; ``Store.create`` and ``Store.open`` are the usual ways."""
        self._table = table
        self.uri = uri
        field = table.schema.field(EMBEDDING)
        self.dim: int = field.type.list_size
        self._mirror: Mirror | None = None
        self._position: dict[str, int] | None = None
        self._version = -1  # the version whose keys are known, when there is no mirror

    @classmethod
    def create(
        cls,
        uri: str | Path,
        *,
        schema: pa.Schema,
        overwrite: bool = False,
        storage_options: Mapping[str, str] | None = None,
    ) -> Store:
        """Make an empty store.

        Args:
            uri: a folder, or whatever LanceDB accepts (``s3://``, ``gs://``, ``az://``, ``db://``).
            schema: Arrow schema with ``key`` (string) and ``embedding`` (fixed-size list of float32); further columns
                are metadata. Its metadata carries the model's name and digest.
            overwrite: replace a store that is already there; an empty one is replaced anyway.
            storage_options: credentials and settings of an object store, as LanceDB takes them.

        Raises:
            InputError: the schema lacks a column, or a store is already there.
        """
        check_schema(schema, where=str(uri))
        database = _connect(uri, storage_options)
        there = _table(database)
        if not overwrite and there is not None and there.count_rows():
            raise InputError(
                f"{uri}: already holds a store; add to it (--existing merge) or replace it (--existing replace)"
            )
        folder = _folder(uri)
        for stale in () if folder is None else folder.glob("index-*"):
            stale.unlink()
        table = database.create_table(TABLE, schema=schema, mode="create" if there is None else "overwrite")
        return cls(table, uri=str(uri))

    @classmethod
    def open(cls, uri: str | Path, *, storage_options: Mapping[str, str] | None = None) -> Store:
        """Open a store that is there.

        Raises:
            InputError: there is none at ``uri``.
        """
        if "://" not in str(uri) and not Path(uri).is_dir():
            raise InputError(f"{uri}: no such store; make one with: tether index EMBEDDINGS --out {uri}")
        table = _table(_connect(uri, storage_options))
        if table is None:
            raise InputError(f"{uri}: holds no table {TABLE!r}; make one with: tether index EMBEDDINGS --out {uri}")
        check_schema(table.schema, where=str(uri))
        return cls(table, uri=str(uri))

    def __len__(self) -> int:
        """Rows in the newest version."""
        self._table.checkout_latest()
        return self._table.count_rows()

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the table."""
        return self._table.schema

    @property
    def digest(self) -> str:
        """Digest of the model that made the vectors, or the empty string."""
        return (self.schema.metadata or {}).get(DIGEST, b"").decode()

    @property
    def model(self) -> str:
        """Name under which that model was loaded, or the empty string; before loading it, see ``models.named.near``."""
        return (self.schema.metadata or {}).get(MODEL, b"").decode()

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
            InputError: a key is already there or comes twice, a vector is not finite or zero, a column is unknown or
                of the wrong type.
        """
        rows = conform(rows, schema=self.schema, where=self.uri)
        if rows.num_rows == 0:
            return
        keys, vectors = checked(rows, where=self.uri)
        known = self._positions()
        present = [key for key in keys if key in known]
        if present:
            raise InputError(f"{self.uri}: key {present[0]!r} is already there ({len(present)} such); use update")
        with self._writing():
            self._table.add(rows)
        if self._mirror is not None:
            self._mirror.append(keys, vectors, version=self._table.version)
        self._remember(keys)
        self._tidy()

    def update(self, rows: pa.Table) -> None:
        """Replace columns of rows that are there.

        Args:
            rows: ``key`` and the columns to replace, in one commit.

        Raises:
            InputError: a key is not there or comes twice, or as for ``add``.
        """
        if rows.num_rows == 0:
            return
        if KEY not in rows.column_names:
            raise InputError(f"{self.uri}: column {KEY!r} is missing")
        keys = rows.column(KEY).to_pylist()
        old = self.records(keys)
        refuse_unknown(rows, schema=self.schema, where=self.uri)
        merged = {name: rows[name] if name in rows.column_names else old[name] for name in old.column_names}
        rows = conform(pa.table(merged), schema=self.schema, where=self.uri)
        keys, vectors = checked(rows, where=self.uri)
        known = self._positions()
        gone = np.array([known[key] for key in keys], dtype=np.int64)
        with self._writing():
            self._table.merge_insert(KEY).when_matched_update_all().execute(rows)
        if self._mirror is not None:
            self._mirror.remove(gone, version=self._table.version)
            self._mirror.append(keys, vectors, version=self._table.version)
        self._remember(keys)
        self._tidy()

    def put(self, rows: pa.Table) -> None:
        """Update the rows whose keys are there and add the others; errors as for both.

        Two commits: a kill between them leaves the updates without the additions, and the same call finishes them.
        """
        known = self._positions()
        if KEY not in rows.column_names:
            raise InputError(f"{self.uri}: column {KEY!r} is missing")
        there = [key in known for key in rows.column(KEY).to_pylist()]
        self.update(rows.filter(pa.array(there, pa.bool_())))
        self.add(rows.filter(pa.array([not one for one in there], pa.bool_())))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove rows by key.

        Raises:
            InputError: a key is not there; nothing is removed then.
        """
        known = self._positions()
        missing = [key for key in keys if key not in known]
        if missing:
            raise InputError(f"{self.uri}: no row with key {missing[0]!r} ({len(missing)} such)")
        keys = list(dict.fromkeys(keys))
        for start in range(0, len(keys), KEYS_PER_DELETE):
            with self._writing():
                self._table.delete(_one_of(keys[start : start + KEYS_PER_DELETE]))
        if not keys:
            return
        if self._mirror is not None:
            gone = np.array([known[key] for key in keys], dtype=np.int64)
            self._mirror.remove(gone, version=self._table.version)
        for key in keys:
            del known[key]
        self._tidy()

    def search(
        self,
        query: Float[np.ndarray, " d"],
        *,
        top: int = 10,
        where: str | None = None,
        how: How | None = None,
    ) -> Ranking:
        """The rows whose vectors are nearest to a query.

        Args:
            query: vector of any length; only its direction counts.
            top: how many rows.
            where: SQL condition on the metadata, e.g. ``"label = 'cat' AND year > 2020"``. It is applied first, and
                what passes is compared exactly, so a filter never costs recall.
            how: ``exact`` compares with every row; ``index`` asks the index; None lets the number of rows decide.

        Raises:
            InputError: the store is empty, the query is not a finite vector of the right length, or the filter is not
                one that LanceDB understands.
        """
        query = np.asarray(query)
        if query.shape != (self.dim,):
            raise InputError(f"{self.uri}: expected a query of shape ({self.dim},), got {query.shape}")
        if top < 1:
            raise InputError(f"{self.uri}: expected to ask for at least 1 row, got top={top}")
        if where is not None and ";" in re.sub(r"'(?:[^']|'')*'", "", where):
            raise InputError(f"filter {where!r}: expected one condition, got ';'")  # LanceDB ignores what follows it
        query = unit(query[None], where="query")[0]
        mirror = self.warm()
        if not mirror.vectors.alive.any():
            raise InputError(f"{self.uri}: the store holds no rows; add some first")
        try:
            return mirror.search(query, top=top, where=where, how=how)
        except (ValueError, RuntimeError, OSError) as error:
            if where is None or isinstance(error, InputError):
                raise
            raise InputError(f"filter {where!r}: {_plain(error)}; columns: {', '.join(self.schema.names)}") from error

    def warm(self) -> Mirror:
        """Bring the vectors into memory, as they stand in the newest version."""
        self._table.checkout_latest()
        if self._mirror is None or self._mirror.worn or self._mirror.version != self._table.version:
            self._mirror = Mirror(self._table, dim=self.dim, folder=_folder(self.uri), where=self.uri)
            self._position = None
        return self._mirror

    def records(self, keys: Sequence[str], *, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by key, in the order of the keys.

        Args:
            keys: of rows in the store.
            columns: which columns; all when None. ``key`` always comes along.

        Raises:
            InputError: a key is not there.
        """
        self._table.checkout_latest()
        names = self.schema.names if columns is None else list(dict.fromkeys([KEY, *columns]))
        parts = [self._table.schema.empty_table().select(names)]
        for start in range(0, len(keys), KEYS_PER_DELETE):
            some = keys[start : start + KEYS_PER_DELETE]
            query = self._table.search().where(_one_of(some)).select(names).limit(len(some))
            parts.append(query.to_arrow().select(names))
        found = pa.concat_tables(parts)
        place = {key: i for i, key in enumerate(found.column(KEY).to_pylist())}
        missing = [key for key in keys if key not in place]
        if missing:
            raise InputError(f"{self.uri}: no row with key {missing[0]!r} ({len(missing)} such)")
        return found.take(pa.array([place[key] for key in keys], type=pa.int64()))

    def restore(self, version: int) -> None:
        """Make an earlier version the newest one again.

        Raises:
            InputError: that version never was, or was dropped when the store was compacted.
        """
        try:
            self._table.checkout(version)
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(f"{self.uri}: there is no version {version} (any more): {_plain(error)}") from error
        self._table.restore()
        self._table.checkout_latest()
        self._mirror = self._position = None

    def compact(self, *, keep: timedelta = KEEP_VERSIONS) -> None:
        """Join small files, bring scalar indices up to date, and drop versions older than ``keep``."""
        with self._writing():
            self._table.optimize(cleanup_older_than=keep)
        if self._mirror is not None:
            self._mirror.forget(version=self._table.version)

    def index_columns(self) -> None:
        """Give each metadata column that a filter may name a scalar index, so that filters need not read it whole."""
        from lancedb.index import Bitmap, BTree

        for field in self.schema:
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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in one line that a write failed: a full disk, lost rights, a conflict with another writer."""
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            raise TetherError(f"{self.uri}: the write failed and changed nothing: {_plain(error)}") from error

    def _positions(self) -> dict[str, int]:
        """Key to position in the mirror (or any number, without one), for the newest version."""
        self._table.checkout_latest()
        if self._mirror is not None:
            mirror = self.warm()
            if self._position is None:
                alive = mirror.vectors.alive
                self._position = {key: i for i, key in enumerate(mirror.keys) if alive[i]}
        elif self._position is None or self._version != self._table.version:
            found = self._table.search().select([KEY]).limit(max(self._table.count_rows(), 1)).to_arrow()
            self._position = {key: i for i, key in enumerate(found.column(KEY).to_pylist())}
        return self._position

    def _remember(self, keys: Sequence[str]) -> None:
        """Note the positions that rows just written have."""
        known = self._position
        assert known is not None
        start = 0 if self._mirror is None else len(self._mirror.keys) - len(keys)
        known.update((key, start + i) for i, key in enumerate(keys))

    def _tidy(self) -> None:
        if self._table.version % COMPACT_EVERY == 0:
            try:
                self.compact()
            except TetherError as error:  # what was written stands; the next hundredth version tries again
                warnings.warn(f"not compacted: {error}", stacklevel=3)
        self._version = self._table.version


def _connect(uri: str | Path, storage_options: Mapping[str, str] | None) -> Any:
    import lancedb

    return lancedb.connect(str(uri), storage_options=dict(storage_options) if storage_options else None)


def _table(database: Any) -> Any | None:
    """The store's table, or None where there is none; asking for it beats paging through a cluster's list."""
    try:
        return database.open_table(TABLE)
    except (ValueError, FileNotFoundError) as error:
        if "not found" in str(error):
            return None
        raise


def _folder(uri: str | Path) -> Path | None:
    """Where a local store keeps what can be rebuilt; None for a store on an object store or a cluster."""
    return None if "://" in str(uri) else Path(uri) / "rebuildable"


def _one_of(keys: Sequence[str]) -> str:
    """SQL condition: the key is one of these."""
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
    return f"{KEY} IN ({quoted})"


def _plain(error: Exception) -> str:
    """LanceDB's message without the place in its own source."""
    return re.sub(r",?\s*/\S+\.rs:\d+:\d+", "", str(error)).strip().removeprefix("Invalid input, ")
