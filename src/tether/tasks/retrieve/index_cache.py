"""The vector index of a store, kept in the user's cache folder: never beside the store, which may come from anyone.

A store's folder is copied and passed on, and faiss trusts its files; what lies in the cache was written by this user.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Int

from tether.core.atomic_io import atomic_path, cache_dir, read_json, write_json
from tether.core.errors import InputError, WriteError
from tether.core.model_digest import file_digest
from tether.tasks.retrieve.ivf_index import InvertedIndex
from tether.tasks.retrieve.lance import folder_of

_log = logging.getLogger("tether.retrieve")
INDEX, ROWS, STATE = "index.faiss", "rows.npy", "state.json"


class IndexCache:
    """Where the index of one store is kept; that of a store that was moved, copied or replaced is another one."""

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
        return self._folder / INDEX, np.load(self._folder / ROWS, allow_pickle=False)

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
