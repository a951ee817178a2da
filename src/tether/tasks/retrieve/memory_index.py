"""The part of a store that is kept in memory: keys, unit vectors, remembered filters, the index.

Everything here is read from the LanceDB table and may be dropped at any time. Writes of this process are mirrored one
by one; a table that another process changed is read anew.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from tether.core.atomic_io import atomic_path, read_json, regular, write_json
from tether.core.cache_folder import cache_dir
from tether.core.errors import InputError, WriteError
from tether.core.model_digest import file_digest
from tether.tasks.retrieve import ivf_index, lance
from tether.tasks.retrieve.flat_index import How, Ranking, UnitVectors, best, unit, unit_prefixes
from tether.tasks.retrieve.ivf_index import InvertedIndex
from tether.tasks.retrieve.lance import folder_of
from tether.tasks.retrieve.rows import STORE

INDEX_ABOVE = 200_000  # rows; below, an exact scan takes about as long as drawing the answer
REMEMBERED_FILTERS = 64
REMOVED_SHARE = 0.25  # above it the matrix is read anew rather than scanned past its gaps
PROBED_ROWS = 32  # rows that a loaded index must find again before it is believed


class Mirror:
    """Keys and unit vectors of one table, in the table's order."""

    def __init__(self, table: Any, *, dim: int, where: str) -> None:
        """Read the table.

        Args:
            table: a LanceDB table with the columns ``key`` and ``embedding``.
            dim: length of the vectors.
            where: the store's uri.
        """
        self._table = table
        self._cache = IndexCache(where, identity=(table.schema.metadata or {}).get(STORE, b""))
        self.version = table.version
        self.keys: list[str] = []
        count = table.count_rows()
        lance.check_claim(where, rows=count, dim=dim)
        self.vectors = UnitVectors(dim=dim, capacity=count)
        addresses = []
        for batch in _scan(table, columns=["key", "embedding"], limit=max(count, 1)):
            self.keys.extend(batch.column("key").to_pylist())
            rows = batch.column("embedding").flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, dim)
            self.vectors.append(unit(rows, where=where))
            addresses.append(batch.column("_rowid").to_numpy())
        self._addresses: Int[np.ndarray, " n"] | None = _joined(addresses)
        self._filters: dict[str, Int[np.ndarray, " m"]] = {}
        self._narrow: UnitVectors | None = None
        self._index: InvertedIndex | None = None
        self._covered = 0  # positions the index knows of

    @property
    def worn(self) -> bool:
        """Whether so many rows were removed that reading the table anew pays."""
        return self.vectors.removed > REMOVED_SHARE * max(len(self.vectors), 1)

    def append(self, keys: list[str], rows: Float[np.ndarray, "m d"], *, version: int) -> None:
        """Take over rows that were just written."""
        self.vectors.append(rows)
        self.keys.extend(keys)
        self.forget(version=version)

    def remove(self, positions: Int[np.ndarray, " m"], *, version: int) -> None:
        """Take over that rows were just deleted."""
        self.vectors.remove(positions)
        self.forget(version=version)

    def forget(self, *, version: int) -> None:
        """Note that the table is at another version: row addresses and filters must be asked for again."""
        self.version = version
        self._addresses = self._narrow = None
        self._filters.clear()

    def search(self, query: Float[np.ndarray, " d"], *, top: int, where: str | None, how: How | None) -> Ranking:
        """Nearest rows to a unit query; a filter is applied first, and what passes is scanned exactly."""
        if where is not None:
            positions, scores = self.vectors.scores(query, only=self.positions(where))
        elif how == "index" or (how is None and len(self.vectors) > INDEX_ABOVE and ivf_index.available()):
            proposed = self.index().propose(query, top=top)
            positions, scores = self.vectors.scores(query, only=proposed[self.vectors.alive[proposed]])
            return self._ranking(positions, scores, top=top, how="index")
        else:
            positions, scores = self.vectors.scores(query)
        return self._ranking(positions, scores, top=top, how="exact")

    def search_narrow(
        self, query: Float[np.ndarray, " d"], *, dims: int, shortlist: int | None, top: int, where: str | None
    ) -> Ranking:
        """Nearest rows by their first numbers, all of them compared; a shortlist of them is ranked by the whole."""
        only = None if where is None else self.positions(where)
        positions, scores = self.narrow(dims).scores(unit(query[None, :dims], where="query")[0], only=only)
        if shortlist is None:
            return self._ranking(positions, scores, top=top, how="exact")
        order = best(scores, top=shortlist)
        rows = np.sort(order if positions is None else positions[order])
        return self._ranking(*self.vectors.scores(query, only=rows), top=top, how="index")

    def narrow(self, dims: int) -> UnitVectors:
        """The first numbers of every row, scaled to length 1; those of one width are kept."""
        if self._narrow is None or self._narrow.dim != dims:
            self._narrow = UnitVectors(dim=dims, capacity=len(self.vectors))
            self._narrow.append(unit_prefixes(self.vectors.rows, dims=dims, where=f"the first {dims} numbers"))
            self._narrow.remove(np.flatnonzero(~self.vectors.alive))
        return self._narrow

    def _ranking(
        self, positions: Int[np.ndarray, " m"] | None, scores: Float[np.ndarray, " m"], *, top: int, how: How
    ) -> Ranking:
        order = best(scores, top=top)
        rows = order if positions is None else positions[order]
        return Ranking(tuple(self.keys[i] for i in rows), scores[order], how)

    def positions(self, where: str) -> Int[np.ndarray, " m"]:
        """Rising positions of the rows that pass an SQL filter; LanceDB evaluates it once for each version."""
        if where not in self._filters:
            passing = _scan(self._table, columns=[], limit=max(len(self.keys), 1), where=where)
            ids = _joined([batch.column("_rowid").to_numpy() for batch in passing])
            addresses = self.addresses()
            order = np.argsort(addresses, kind="stable")  # fast: they are nearly sorted
            if len(self._filters) >= REMEMBERED_FILTERS:
                self._filters.pop(next(iter(self._filters)))
            self._filters[where] = np.sort(order[np.searchsorted(addresses, ids, sorter=order)])
        return self._filters[where]

    def addresses(self) -> Int[np.ndarray, " n"]:
        """LanceDB's address of the row at each position, -1 where it was removed."""
        if self._addresses is None:
            keys, ids = [], []
            for batch in _scan(self._table, columns=["key"], limit=max(len(self.keys), 1)):
                keys.append(batch.column("key"))
                ids.append(batch.column("_rowid").to_numpy())
            known = pa.chunked_array(keys, type=pa.string())
            alive = np.flatnonzero(self.vectors.alive)
            mine = pa.array([self.keys[i] for i in alive], type=pa.string())
            self._addresses = np.full(len(self.vectors), -1, dtype=np.int64)
            if known.combine_chunks().equals(mine):
                self._addresses[alive] = _joined(ids)
            else:
                place = pc.call_function("index_in", [mine], options=pc.SetLookupOptions(value_set=known))
                self._addresses[alive] = _joined(ids)[place.to_numpy()]
        return self._addresses

    def index(self) -> InvertedIndex:
        """The index over all rows: the one in memory, else the one on disk, else a new one."""
        found = self._index or self._load_index()
        if found is None or found.stale:
            alive = np.flatnonzero(self.vectors.alive)
            rows = self.vectors.rows if len(alive) == len(self.vectors) else self.vectors.rows[alive]
            found = InvertedIndex.build(rows, positions=alive)
            self._cache.save(found, rows=self.addresses()[alive])
            self._covered = len(self.vectors)
        if self._covered < len(self.vectors):
            new = np.arange(self._covered, len(self.vectors))
            found.add(self.vectors.rows[self._covered :], positions=new)
            self._covered = len(self.vectors)
        self._index = found
        return found

    def _load_index(self) -> InvertedIndex | None:
        """The saved index with its rows found again by address, or None when it does not fit this table."""
        cached = self._cache.load()
        if cached is None:
            return None
        path, saved = cached
        addresses = self.addresses()
        order = np.argsort(addresses, kind="stable")
        place = np.searchsorted(addresses, saved, sorter=order)
        positions = order[np.minimum(place, len(order) - 1)]
        positions[addresses[positions] != saved] = -1
        kept = positions[positions >= 0]
        if len(kept) < (1 - REMOVED_SHARE) * max(len(saved), int(self.vectors.alive.sum())):
            return None
        index = InvertedIndex.load(path, positions=positions)
        if index is None:
            return None
        loose = self.vectors.alive.copy()
        loose[kept] = False
        if loose.any():
            index.add(self.vectors.rows[loose], positions=np.flatnonzero(loose))
        self._covered = len(self.vectors)
        probe = kept[np.linspace(0, len(kept) - 1, PROBED_ROWS).astype(np.int64)]
        believed = all(position in index.propose(self.vectors.rows[position], top=1) for position in probe)
        return index if believed else None


def _scan(table: Any, *, columns: list[str], limit: int, where: str | None = None) -> Any:
    """Batches of the wanted columns and ``_rowid`` of the rows that pass, in the table's order.

    LanceDB wants a limit; it must be at least the number of rows.
    """
    query = table.search()
    if where is not None:
        query = query.where(where)
    return query.select([*columns, "_rowid"]).limit(limit).to_batches()


def _joined(parts: list[np.ndarray]) -> Int[np.ndarray, " n"]:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)


_log = logging.getLogger("tether.retrieve")
INDEX, ROWS, STATE = "index.faiss", "rows.npy", "state.json"


class IndexCache:
    """Where the index of one store is kept: in the user's cache folder, never beside the store.

    A store's folder is copied and passed on, and faiss trusts its files; what lies in the cache was written by this
    user. The index of a store that was moved, copied or replaced is another one.
    """

    def __init__(self, uri: str, *, identity: bytes) -> None:
        """Name the store by its place and by what it was given when it was made."""
        local = folder_of(uri)
        self._place = uri if local is None else str(local.resolve())
        name = hashlib.blake2b(f"{self._place}\x00".encode(errors="surrogateescape") + identity, digest_size=16)
        self._root = cache_dir() / "search"
        self._folder = self._root / name.hexdigest()

    def save(self, index: InvertedIndex, *, rows: Int[np.ndarray, " n"]) -> None:
        """Keep an index and the table's address of each row in it; one that cannot be kept is built again."""
        try:
            (self._folder / STATE).unlink(missing_ok=True)
            index.save(self._folder / INDEX)
            with atomic_path(self._folder / ROWS) as temporary, temporary.open("wb") as file:
                np.save(file, rows)
            digests = {name: file_digest(self._folder / name) for name in (INDEX, ROWS)}
            write_json(self._folder / STATE, {"store": self._place, "digests": digests})
            self._forget_gone()
        except (WriteError, OSError) as error:
            _log.warning("the index of %s was not kept: %s", self._place, error)

    def load(self) -> tuple[Path, Int[np.ndarray, " n"]] | None:
        """The file of the index and the address of each row; None where there is none, or one of its files changed."""
        try:
            digests = read_json(self._folder / STATE)["digests"]
            if any(digests[name] != file_digest(self._folder / name) for name in (INDEX, ROWS)):
                return None
        except (InputError, OSError, KeyError, TypeError):
            return None
        return self._folder / INDEX, np.load(regular(self._folder / ROWS), allow_pickle=False)

    def _forget_gone(self) -> None:
        """Remove the indices of stores that are no longer there, and of those that were here before."""
        for state in self._root.glob(f"*/{STATE}"):
            try:
                place = str(read_json(state)["store"])
            except (InputError, KeyError, TypeError):
                continue
            local = folder_of(place)
            gone = place == self._place or (local is not None and not local.exists())
            if gone and state.parent != self._folder:
                shutil.rmtree(state.parent, ignore_errors=True)
