"""A pool of rows that is read in pieces: captions and the columns that steps ask for, or everything for writing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from tether.core.component import closest
from tether.core.errors import InputError
from tether.data.curate.engine.hashing import numbered
from tether.data.curate.engine.step import IMAGE, PAIR_SCHEMA

PIECE_ROWS = 16_384
"""Rows that a piece, and so a written shard, holds at most, where the source's blocks allow it."""
BATCH_ROWS = 4_096
"""Rows in memory at once, at most."""
BATCH_BYTES = 1 << 26
"""Bytes of images and other columns in memory at once, about; one row may be larger."""
LICENCES = ("license", "licence", "rights", "usage_rights", "license_url", "licence_url")
"""Names of columns that say under which terms a row may be used; their values are counted in the manifest."""

Columns = Literal["captions", "all"]


@dataclass(frozen=True, slots=True)
class Rows:
    """A few rows of a pool.

    Attributes:
        keys: (n,) strings, not null.
        texts: (n,) lists of strings; null for a row without captions.
        table: the n rows as they shall be written, or None when only captions were asked for.
        bad: key and reason of rows that could not be used and are not among the n.
        extra: (n,) columns that were asked for by name; ``image`` holds encoded bytes.
    """

    keys: pa.StringArray
    texts: pa.ListArray
    table: pa.Table | None = None
    bad: tuple[tuple[str, str], ...] = ()
    extra: Mapping[str, pa.Array] = field(default_factory=dict)

    def slice(self, rows: int) -> Rows:
        """The first ``rows`` of them, and all that are bad."""
        columns = {name: column.slice(0, rows) for name, column in self.extra.items()}
        table = None if self.table is None else self.table.slice(0, rows)
        return Rows(self.keys.slice(0, rows), self.texts.slice(0, rows), table, self.bad, columns)


class Pool(Protocol):
    """Where curation reads from. It is pickled to workers, so it holds paths and settings, never open files.

    Attributes:
        name: for messages and the manifest.
        version: changes when the data do.
        keys_unique: whether keys are unique by construction.
        captions_column: name of the written column that holds the kept captions.
        image_column: name of the written column that holds the image, or None.
        key_column: name of the written column that holds the key, or None.
        meta_column: name of the written column that holds further columns as JSON, or None.
    """

    name: str
    version: str
    keys_unique: bool
    captions_column: str
    image_column: str | None
    key_column: str | None
    meta_column: str | None

    def column_names(self) -> Sequence[str]:
        """Columns that a step may ask for; of a source's rows, those of the first few."""
        ...

    def pieces(self) -> int:
        """How many pieces there are."""
        ...

    def read(self, piece: int, *, columns: Columns, extra: Sequence[str] = ()) -> Iterator[Rows]:
        """The rows of one piece, the same ones in the same order whichever columns are asked for."""
        ...


def check_columns(pool: Pool, columns: Iterable[str], *, where: str) -> None:
    """Refuse a pool that lacks a column which a step reads."""
    for name in columns:
        known = pool.column_names()
        if name not in known:
            what = "images" if name == IMAGE else f"a column {name!r}"
            raise InputError(f"{where}: needs {what}, which {pool.name} does not have; {closest(name, known)}")


def licence_column(pool: Pool) -> str | None:
    """The column that says under which terms a row may be used, if there is one."""
    lower = {name.lower(): name for name in reversed(pool.column_names())}
    return next((lower[name] for name in LICENCES if name in lower), None)


def group(sizes: Sequence[int | None], *, rows: int = PIECE_ROWS) -> list[tuple[int, int]]:
    """Half-open ranges of neighbouring blocks that hold at most ``rows`` rows together, or one block each."""
    ranges: list[tuple[int, int]] = []
    start, held = 0, 0
    for index, size in enumerate(sizes):
        # A block of unknown size is a piece of its own.
        count = rows if size is None else size
        if index > start and held + count > rows:
            ranges.append((start, index))
            start, held = index, 0
        held += count
    if len(sizes) > start:
        ranges.append((start, len(sizes)))
    return ranges


def explode(rows: Rows) -> tuple[pa.RecordBatch, np.ndarray]:
    """One row for each (image, caption) pair.

    The key of a pair is the row's, followed by ``#`` and the caption's position when the row has several, or when
    its own key ends in ``#`` and a number: what stands before the last ``#`` is then the row's key, always.

    Returns:
        the pairs (``PAIR_SCHEMA`` and what the rows have beside it) and (m,) the row of each.
    """
    counts = np.asarray(rows.texts.value_lengths().fill_null(0))
    slots = np.maximum(counts, 1)
    row = np.repeat(np.arange(len(counts)), slots)
    first = np.cumsum(slots) - slots
    place = np.arange(len(row)) - first[row]
    marked = (counts > 1) | numbered(rows.keys)
    if (counts == 1).all() and not marked.any():
        pairs = pa.record_batch([rows.keys, rows.texts.flatten()], schema=PAIR_SCHEMA)
    else:
        starts = np.cumsum(counts) - counts
        index = starts[row] + place
        texts = rows.texts.flatten().take(pa.array(index, pa.int64(), mask=counts[row] == 0))
        keys = rows.keys.to_pylist()
        named = [f"{keys[r]}#{p}" if mark else keys[r] for r, p, mark in zip(row, place, marked[row], strict=True)]
        pairs = pa.record_batch([pa.array(named, pa.string()), texts], schema=PAIR_SCHEMA)
    for name, column in rows.extra.items():
        pairs = pairs.append_column(name, column if len(row) == len(counts) else column.take(pa.array(row)))
    return pairs, row


def valid_text(column: pa.Array) -> tuple[pa.StringArray, np.ndarray]:
    """A string or binary column as checked UTF-8; what is not becomes null and is marked.

    Returns:
        (n,) strings and (n,) bool, True where the bytes were not UTF-8.
    """
    raw = column.cast(pa.binary())
    try:
        return raw.cast(pa.string()), np.zeros(len(raw), np.bool_)
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        broken = np.zeros(len(raw), np.bool_)
        for index, value in enumerate(raw.to_pylist()):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                texts.append(None)
                broken[index] = True
        return pa.array(texts, pa.string()), broken
