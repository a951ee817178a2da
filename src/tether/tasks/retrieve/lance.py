"""What a store asks of LanceDB: places, one writer at a time, errors in one line, what killed writes left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.core.errors import InputError, TetherError, WriteError, is_fault
from tether.core.locks import locked
from tether.data.features.parquet import ALWAYS_FINE, MOST_INFLATED

TABLE = "embeddings"
WAIT = 10.0
"""Seconds that a write waits for another process to finish its own."""


class WriteLock:
    """The right to write to a store that lies in a local folder; elsewhere there is none, and nothing is waited for."""

    def __init__(self, uri: str | Path) -> None:
        """Name the store; nothing is locked yet."""
        self._folder = folder_of(uri)
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def held(self, *, purpose: str = "a change of a store", wait: float | None = None) -> Iterator[None]:
        """Keep every other writer out while the block runs; uses inside of it are free.

        Raises:
            LockedError: another process holds it after the wait.
        """
        with self._threads, contextlib.ExitStack() as stack:
            if self._folder is not None and not self._depth:
                stack.enter_context(locked(self._folder, purpose=purpose, wait=WAIT if wait is None else wait))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1


def folder_of(uri: str | Path) -> Path | None:
    """The folder of a local store; None for one on an object store or a cluster."""
    path = str(uri).removeprefix("file://")
    return None if "://" in path else Path(path)


def connect(uri: str | Path, storage_options: Mapping[str, str] | None) -> Any:
    """A LanceDB connection."""
    import lancedb

    return lancedb.connect(str(uri), storage_options=dict(storage_options) if storage_options else None)


def table_of(uri: str | Path, storage_options: Mapping[str, str] | None) -> Any | None:
    """The store's table, or None where there is none; a cluster's list is paged through only if it cannot be opened.

    Raises:
        InputError: it cannot be read, or a local store holds what is no file.
    """
    local = _table_folder(uri)
    if local is not None and not _has_version(local):
        return None
    with reading(uri):
        if local is not None:
            _check_files(local)
        database = connect(uri, storage_options)
        try:
            return database.open_table(TABLE)
        except (ValueError, FileNotFoundError):
            if local is not None or _is_listed(database):
                raise
            return None


def _check_files(folder: Path) -> None:
    """See that a table is made of files and folders: the engine would wait at a pipe for ever."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _check_files(Path(entry.path))
            elif not entry.is_file():
                raise InputError(f"{entry.path}: not a regular file; remove it, or make the store again")


def _table_folder(uri: str | Path) -> Path | None:
    folder = folder_of(uri)
    return None if folder is None else folder / f"{TABLE}.lance"


def _has_version(table: Path) -> bool:
    """Whether a write of a table was ever finished."""
    return any(table.glob("_versions/*.manifest"))


def _is_listed(database: Any) -> bool:
    last = None
    while names := list(database.table_names(page_token=last, limit=1000)):
        if TABLE in names:
            return True
        last = names[-1]
    return False


def check_claim(uri: str | Path, *, rows: int, dim: int) -> None:
    """See that a local store is large enough for the vectors it says it has; a compressor finds little in vectors.

    Raises:
        InputError: it is far too small; reading it would take far more memory than its files.
    """
    folder, claimed = folder_of(uri), 4 * rows * dim
    if folder is None or claimed <= ALWAYS_FINE:
        return
    size = sum(path.stat().st_size for path in folder.rglob("*.lance") if path.is_file())
    if claimed > MOST_INFLATED * size:
        raise InputError(f"{uri}: claims {claimed:,} bytes of vectors in files of {size:,}; damaged, or made to harm")


def remove_leftovers(uri: str | Path) -> None:
    """Remove what killed writes left in a local store; only who holds the write lock may call this."""
    table = _table_folder(uri)
    if table is None or not table.is_dir():
        return
    if not _has_version(table):  # killed before its first version was there
        shutil.rmtree(table, ignore_errors=True)
    for path in table.rglob(".tmp*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(uri: str | Path) -> Iterator[None]:
    """Say in one line that a store cannot be read, whatever its damaged files make LanceDB and Arrow raise."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, TetherError) or not is_fault(error):
            raise
        raise InputError(f"{uri}: cannot be read; damaged or out of reach: {plain(error)}") from error


@contextlib.contextmanager
def writing(uri: str | Path, *, safe: str = "what was in the store is unchanged") -> Iterator[None]:
    """Say in one line that a write failed: a full disk, lost rights, a conflict with another writer."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, TetherError) or not is_fault(error):
            raise
        raise WriteError(str(uri), RuntimeError(plain(error)), safe=safe) from error


def plain(error: BaseException) -> str:
    """LanceDB's message in one line, without places in its own source."""
    text = re.sub(r",?\s*/\S+\.rs:\d+:\d+", "", str(error)).strip().removeprefix("Invalid input, ")
    return " ".join(text.split())[:500]
