"""Parquet files as a pool: counting reads the captions' column alone, pictures are copied without being decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tether.core.errors import InputError
from tether.data.curate.pool import BATCH_ROWS, Columns, Rows, group, valid_text
from tether.data.paths import files, filesystem, fingerprint, is_url, labels
from tether.data.sources.columns import KEY, choose, choose_captions


@dataclass(frozen=True, slots=True)
class _Group:
    file: str
    index: int
    rows: int
    first: int  # place of its first row in the file


class ParquetPool:
    """Row groups of Parquet files, all their columns kept.

    Columns and keys are found as ``sources.parquet`` finds them. The captions' column may hold strings or lists of
    strings; kept captions are written back to it.
    """

    def __init__(self, path: str, *, caption: str | None = None, key: str | None = None) -> None:
        """Read the files' footers.

        Args:
            path: a file, a folder, a pattern, or a URL.
            caption: column of captions; default: the first usual name that is there.
            key: column of unique keys; default: the first usual name that is there, else file and row number.

        Raises:
            InputError: no such files, not Parquet, no such column, or files of different columns.
        """
        names = files(path, ending=(".parquet", ".pq"))
        self.name, self.version = path, fingerprint(names, settings=(caption, key))
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
        if schema is None or not any(each.rows for each in self._groups):
            raise InputError(f"{path}: the pool is empty (no rows)")
        self._schema = schema
        found_captions = choose_captions([caption] if caption else [], known=schema.names, where=path)
        if not found_captions:
            raise InputError(f"{path}: no column of captions found; there are: {', '.join(schema.names)}")
        self.captions_column = found_captions[0]
        self._key = choose(key, guesses=KEY, known=schema.names, what="key", where=path)
        self.keys_unique = self._key is None
        self._short = dict(zip(names, labels(names), strict=True))
        self._lists = _list_of_strings(schema.field(self.captions_column), where=path)
        self._ranges = group([each.rows for each in self._groups])

    def pieces(self) -> int:
        """Number of ranges of row groups."""
        return len(self._ranges)

    def read(self, piece: int, *, columns: Columns) -> Iterator[Rows]:
        """Rows of the piece's row groups."""
        captions = [name for name in (self._key, self.captions_column) if name]
        for each in self._groups[slice(*self._ranges[piece])]:
            place, prefix = each.first, f"{self._short[each.file]}:"
            with _open(each.file) as opened:
                # The captions of a row group are read whole first, so that a damaged one is left out in every pass.
                try:
                    light = opened.read_row_group(each.index, columns=captions, use_threads=False)
                except (pa.ArrowException, OSError) as error:
                    yield self._damaged(f"{prefix}#{each.index}", f"{each.rows} rows cannot be read: {error}", columns)
                    continue
                if columns == "captions":
                    batches = light.to_batches(BATCH_ROWS)
                else:
                    batches = opened.iter_batches(BATCH_ROWS, row_groups=[each.index], use_threads=False)
                try:
                    for batch in batches:
                        yield self._rows(batch, prefix, place, whole=columns == "all")
                        place += batch.num_rows
                except (pa.ArrowException, OSError) as error:
                    raise InputError(f"{each.file}, row group {each.index}: cannot read it: {error}") from error

    def _damaged(self, key: str, reason: str, columns: Columns) -> Rows:
        table = None if columns == "captions" else self._schema.empty_table()
        return Rows(pa.array([], pa.string()), pa.array([], pa.list_(pa.string())), table, ((key, reason),))

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


def _list_of_strings(field: pa.Field, *, where: str) -> bool:
    """Whether the column holds lists; anything but strings or lists of strings is refused."""
    kind, lists = field.type, False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, lists = kind.value_type, True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        raise InputError(f"{where}: column {field.name!r}: expected strings or lists of strings, got {field.type}")
    return lists


def _differences(first: pa.Schema, other: pa.Schema) -> str:
    both = sorted({*first.names, *other.names})
    kinds = {name: [s.field(name).type if name in s.names else "missing" for s in (first, other)] for name in both}
    return ", ".join(f"{name} ({a} and {b})" for name, (a, b) in kinds.items() if a != b) or "their order"
