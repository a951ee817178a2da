"""Parquet files as a pool: counting reads the captions' column alone, images are copied without being decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tether.core.errors import InputError
from tether.core.printable import encodable
from tether.data.curate.engine.step import IMAGE
from tether.data.curate.pools.pool import BATCH_BYTES, BATCH_ROWS, Columns, Rows, group, valid_text
from tether.data.image_file import image_bytes
from tether.data.manifests import shard_files, sizes_of
from tether.data.paths import fingerprint, labels
from tether.data.sources.columns import IMAGE as IMAGE_GUESSES
from tether.data.sources.columns import KEY, Reach, choose, choose_captions, folder_of, image_of
from tether.data.sources.parquet_file import open_parquet, read_batches


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

    meta_column: str | None = None

    def __init__(
        self,
        path: str,
        *,
        image: str | None = None,
        caption: str | None = None,
        key: str | None = None,
        root: str | None = None,
        remote_images: bool = False,
    ) -> None:
        """Read the files' footers.

        Args:
            path: a file, a folder, a pattern, a URL, or a manifest of files.
            image: column of images: bytes, ``{bytes, path}``, or paths beside the file; default: the first usual
                name that is there.
            caption: column of captions; default: the first usual name that is there.
            key: column of unique keys; default: the first usual name that is there, else file and row number.
            root: folder that paths are relative to and may not leave; default: the file's own folder.
            remote_images: whether the table may name URLs of public hosts.

        Raises:
            InputError: no such files, not Parquet, no such column, or files of different columns.
        """
        names, said = shard_files(path, ending=(".parquet", ".pq"))
        self._root, self._remote = root, remote_images
        given = (image, caption, key, *filter(None, (root, remote_images)))
        self.name, self.version = encodable(path), fingerprint(names, settings=given, sizes=sizes_of(said))
        self._groups: list[_Group] = []
        schema: pa.Schema | None = None
        for file in names:
            with open_parquet(file) as opened:
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
        found_captions = choose_captions(caption or (), known=schema.names, where=path)
        if not found_captions:
            raise InputError(f"{path}: no column of captions found; there are: {', '.join(schema.names)}")
        self.captions_column = found_captions[0]
        self.key_column = choose(key, guesses=KEY, known=schema.names, what="key", where=path)
        self.image_column = choose(image, guesses=IMAGE_GUESSES, known=schema.names, what="image", where=path)
        self.keys_unique = self.key_column is None
        self._short = dict(zip(names, labels(names), strict=True))
        self._lists = _list_of_strings(schema.field(self.captions_column), where=path)
        self._ranges = group([each.rows for each in self._groups])

    def column_names(self) -> Sequence[str]:
        """All columns, and ``image`` where one holds images."""
        return [*self._schema.names, *([IMAGE] if self.image_column and IMAGE not in self._schema.names else [])]

    def pieces(self) -> int:
        """Number of ranges of row groups."""
        return len(self._ranges)

    def most_rows(self) -> int:
        """Rows of the largest piece."""
        return max(sum(each.rows for each in self._groups[slice(*piece)]) for piece in self._ranges)

    def read(self, piece: int, *, columns: Columns, extra: Sequence[str] = ()) -> Iterator[Rows]:
        """Rows of the piece's row groups."""
        captions = [name for name in (self.key_column, self.captions_column) if name]
        asked = [self.image_column if name == IMAGE and self.image_column else name for name in extra]
        for each in self._groups[slice(*self._ranges[piece])]:
            with open_parquet(each.file) as opened:
                # The captions of a row group are read whole first, so that a damaged one is left out in every pass.
                try:
                    light = list(self._batches(opened, each, captions))
                except InputError as error:
                    key, reason = f"{self._short[each.file]}:#{each.index}", f"{each.rows} rows cannot be read: {error}"
                    yield self._damaged(key, reason, columns, extra)
                    continue
                if columns == "captions" and not extra:
                    batches = iter(light)
                else:
                    names = self._schema.names if columns == "all" else list(dict.fromkeys([*captions, *asked]))
                    batches = self._batches(opened, each, names)
                del light
                place = each.first
                for batch in batches:
                    yield self._rows(batch, each.file, place, whole=columns == "all", extra=extra)
                    place += batch.num_rows

    def _batches(self, opened: pq.ParquetFile, group: _Group, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = _batch_rows(opened.metadata.row_group(group.index), names)
        return read_batches(opened, path=group.file, group=group.index, columns=names, rows=rows, dictionaries="kept")

    def _damaged(self, key: str, reason: str, columns: Columns, extra: Sequence[str]) -> Rows:
        table = None if columns == "captions" else self._schema.empty_table()
        images = self.image_column is not None
        kinds = {name: pa.binary() if name == IMAGE and images else self._schema.field(name).type for name in extra}
        nothing = {name: pa.nulls(0, kind) for name, kind in kinds.items()}
        return Rows(pa.array([], pa.string()), pa.array([], pa.list_(pa.string())), table, ((key, reason),), nothing)

    def _rows(self, batch: pa.RecordBatch, file: str, first: int, *, whole: bool, extra: Sequence[str]) -> Rows:
        names = [f"{self._short[file]}:{first + index}" for index in range(batch.num_rows)]
        reasons: dict[int, str] = {}
        keys = pa.array(names, pa.string())
        if self.key_column:
            given = batch.column(self.key_column)
            of_bytes = given.type in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
            keys, broken = valid_text(given) if of_bytes else (given.cast(pa.string()), np.zeros(len(given), np.bool_))
            reasons |= {int(index): "the key is not UTF-8" for index in np.flatnonzero(broken)}
            reasons |= {
                int(i): "the key is null" for i in np.flatnonzero(np.asarray(keys.is_null())) if i not in reasons
            }
        texts, broken = self._texts(batch.column(self.captions_column))
        reasons |= {int(index): "a caption is not UTF-8" for index in np.flatnonzero(broken)}
        columns = {name: self._extra(batch, name, file) for name in extra}
        table = pa.Table.from_batches([batch]) if whole else None
        if not reasons:
            return Rows(keys, texts, table, (), columns)
        good = pa.array(np.setdiff1d(np.arange(batch.num_rows), list(reasons)))
        bad = tuple((keys[index].as_py() or names[index], reason) for index, reason in sorted(reasons.items()))
        columns = {name: column.take(good) for name, column in columns.items()}
        return Rows(keys.take(good), texts.take(good), table.take(good) if table else None, bad, columns)

    def _extra(self, batch: pa.RecordBatch, name: str, file: str) -> pa.Array:
        if name != IMAGE or self.image_column is None:
            return batch.column(name)
        reach = Reach((folder_of(file, root=self._root),), remote=self._remote)
        return _images(batch.column(self.image_column), reach=reach)

    def _texts(self, column: pa.Array) -> tuple[pa.ListArray, np.ndarray]:
        if not self._lists:
            texts, broken = valid_text(column)
            offsets = np.concatenate(([0], np.cumsum(np.asarray(texts.is_valid()), dtype=np.int32)))
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.drop_null()), broken
        column = column.cast(pa.list_(column.type.value_type))
        texts, broken_text = valid_text(column.flatten())
        row = np.repeat(np.arange(len(column)), np.asarray(column.value_lengths().fill_null(0)))
        broken = np.zeros(len(column), np.bool_)
        broken[row[broken_text]] = True
        counts = np.bincount(row[np.asarray(texts.is_valid())], minlength=len(column))  # a null is no caption
        offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int32)))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.drop_null()), broken


def _batch_rows(group: pq.RowGroupMetaData, names: Sequence[str]) -> int:
    """How many rows of the named columns fill ``BATCH_BYTES``."""
    chunks = map(group.column, range(group.num_columns))
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.partition(".")[0] in names)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(size, 1)))


def _images(column: pa.Array, *, reach: Reach) -> pa.BinaryArray:
    """Encoded bytes of a column of bytes, of ``{bytes, path}`` or of paths; null where there is nothing to read."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return column.cast(pa.binary())
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = pc.call_function("struct_field", [column], pc.StructFieldOptions([kind.get_field_index("bytes")]))
        if pa.types.is_binary(inner.type) and inner.null_count == column.null_count:
            return inner
    return pa.array([_read(cell, reach=reach) for cell in column.to_pylist()], pa.binary())


def _read(cell: object, *, reach: Reach) -> bytes | None:
    try:
        image = image_of(cell, reach=reach)
        if isinstance(image, Path):
            return image_bytes(image)
        return image if isinstance(image, bytes) else None
    except InputError:
        return None


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
