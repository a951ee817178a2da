"""Parquet files as a pool: counting reads the captions' column alone, pictures are copied without being decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tether.core.errors import InputError
from tether.data.curate.pool import BATCH_ROWS, Columns, Rows, group, valid_text
from tether.data.paths import files, filesystem, fingerprint, is_url

CAPTIONS = ("texts", "captions", "text", "caption", "title", "TEXT")
"""Names a captions' column goes by, the first that is there."""
KEYS = ("key", "__key__", "id", "uid")
"""Names a key's column goes by; without one a row is named by file and place."""


@dataclass(frozen=True, slots=True)
class _Group:
    file: str
    index: int
    rows: int
    first: int  # place of its first row in the file


class ParquetPool:
    """Row groups of Parquet files, all their columns kept.

    The captions' column may hold strings or lists of strings. Kept captions are written back to it.
    """

    def __init__(self, path: str, *, caption_column: str | None = None, key_column: str | None = None) -> None:
        """Read the files' footers.

        Args:
            path: a file, a folder, a pattern, or a URL.
            caption_column: default: the first of ``CAPTIONS`` that is there.
            key_column: default: the first of ``KEYS`` that is there, else file and row number.

        Raises:
            InputError: no such files, not Parquet, no such column, or files of different columns.
        """
        names = files(path, ending=(".parquet", ".pq"))
        self.name, self.version = path, fingerprint(names, settings=f"{caption_column} {key_column}")
        self._groups: list[_Group] = []
        schema: pa.Schema | None = None
        for file in names:
            with _open(file) as opened:
                meta, found = opened.metadata, opened.schema_arrow.remove_metadata()
                if schema is None:
                    schema = found
                elif not schema.equals(found):
                    raise InputError(
                        f"{file}: its columns differ from those of {names[0]}: {_differences(schema, found)}"
                    )
                first = 0
                for index in range(meta.num_row_groups):
                    count = meta.row_group(index).num_rows
                    self._groups.append(_Group(file, index, count, first))
                    first += count
        assert schema is not None
        self.captions_column = _column(schema, caption_column, CAPTIONS, what="captions", where=path)
        self._key = _column(schema, key_column, KEYS, what="keys", where=path) if key_column else _first(schema, KEYS)
        self.keys_unique = self._key is None
        self._short = {file: file.removeprefix(_common(names)) for file in names}
        self._lists = _list_of_strings(schema.field(self.captions_column), where=path)
        self._ranges = group([each.rows for each in self._groups])

    def pieces(self) -> int:
        """Number of ranges of row groups."""
        return len(self._ranges)

    def read(self, piece: int, *, columns: Columns) -> Iterator[Rows]:
        """Rows of the piece's row groups."""
        wanted = None if columns == "all" else [name for name in (self._key, self.captions_column) if name]
        for each in self._groups[slice(*self._ranges[piece])]:
            place = each.first
            with _open(each.file) as opened:
                try:
                    for batch in opened.iter_batches(BATCH_ROWS, row_groups=[each.index], columns=wanted):
                        yield self._rows(batch, f"{self._short[each.file]}:", place, whole=columns == "all")
                        place += batch.num_rows
                except (pa.ArrowException, OSError) as error:
                    raise InputError(f"{each.file}, row group {each.index}: cannot read it: {error}") from error

    def _rows(self, batch: pa.RecordBatch, prefix: str, first: int, *, whole: bool) -> Rows:
        names = [f"{prefix}{first + index}" for index in range(batch.num_rows)]
        reasons: dict[int, str] = {}
        keys = pa.array(names, pa.string())
        if self._key:
            given = batch.column(self._key)
            binary = pa.types.is_string(given.type) or pa.types.is_large_string(given.type)
            keys, broken = valid_text(given) if binary else (given.cast(pa.string()), np.zeros(len(given), np.bool_))
            reasons |= {int(index): "the key is not UTF-8" for index in np.flatnonzero(broken)}
            reasons |= {
                int(i): "the key is null" for i in np.flatnonzero(np.asarray(keys.is_null())) if i not in reasons
            }
        texts, broken = self._texts(batch.column(self.captions_column))
        reasons |= {int(index): "a caption is not UTF-8" for index in np.flatnonzero(broken)}
        table = pa.Table.from_batches([batch]) if whole else None
        if not reasons:
            return Rows(keys, texts, table)
        good = pa.array(np.setdiff1d(np.arange(batch.num_rows), list(reasons)))
        bad = tuple((keys[index].as_py() or names[index], reason) for index, reason in sorted(reasons.items()))
        return Rows(keys.take(good), texts.take(good), table.take(good) if table else None, bad)

    def _texts(self, column: pa.Array) -> tuple[pa.ListArray, np.ndarray]:
        if not self._lists:
            texts, broken = valid_text(column)
            offsets = np.concatenate(([0], np.cumsum(np.asarray(texts.is_valid()), dtype=np.int32)))
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.drop_null()), broken
        column = column.cast(pa.list_(column.type.value_type))
        texts, broken_text = valid_text(column.flatten())
        counts = np.asarray(column.value_lengths().fill_null(0))
        broken = np.zeros(len(column), np.bool_)
        broken[np.repeat(np.arange(len(column)), counts)[broken_text]] = True
        offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int32)))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts), broken


def _open(file: str) -> pq.ParquetFile:
    try:
        if is_url(file):
            system, inner = filesystem(file)
            return pq.ParquetFile(system.open(inner, "rb"))
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a Parquet file: {error}") from error


def _first(schema: pa.Schema, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _column(schema: pa.Schema, asked: str | None, names: tuple[str, ...], *, what: str, where: str) -> str:
    found = asked if asked in schema.names else None if asked else _first(schema, names)
    if found is None:
        wanted = repr(asked) if asked else f"any of {', '.join(names)}"
        raise InputError(f"{where}: no column of {what}: expected {wanted}; there are: {', '.join(schema.names)}")
    return found


def _list_of_strings(field: pa.Field, *, where: str) -> bool:
    """Whether the column holds lists; anything but strings or lists of strings is refused."""
    kind, lists = field.type, False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, lists = kind.value_type, True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        raise InputError(f"{where}: column {field.name!r}: expected strings or lists of strings, got {field.type}")
    return lists


def _common(names: list[str]) -> str:
    """The folder that all files lie in, with its slash."""
    parts = [name.split("/")[:-1] for name in names]
    depth = 0
    while all(len(part) > depth for part in parts) and len({part[depth] for part in parts}) == 1:
        depth += 1
    return "".join(f"{part}/" for part in parts[0][:depth])


def _differences(first: pa.Schema, other: pa.Schema) -> str:
    both = sorted({*first.names, *other.names})
    kinds = {name: [s.field(name).type if name in s.names else "missing" for s in (first, other)] for name in both}
    return ", ".join(f"{name} ({a} and {b})" for name, (a, b) in kinds.items() if a != b) or "their order"
