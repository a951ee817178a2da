"""Parquet files of features: written atomically, read with checksums and limits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tether.core.atomic_io import atomic_path, regular
from tether.core.errors import InputError, refusing

MOST_INFLATED, ALWAYS_FINE = 100, 2**28
"""Files may claim this many times their size in values, or this many bytes, whichever is more."""
PLAIN = ("embedding", "text_embedding", "thumbnail", "pixels")
"""Columns that are noise to a compressor."""


def write(table: pa.Table, path: Path) -> None:
    """One Parquet file, written atomically."""
    write_groups([table], path, schema=table.schema)


def write_groups(tables: Iterable[pa.Table], path: Path, *, schema: pa.Schema) -> None:
    """Tables of one schema as one Parquet file, written atomically."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression=_compression(schema), write_page_checksum=True) as file,
    ):
        for table in tables:
            file.write_table(table)


def read(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a file.

    Raises:
        InputError: it is not Parquet, truncated or damaged, or lacks a column.
    """
    with _sound(path):
        table = _opened(path).read(columns=None if columns is None else list(columns))
    if columns is not None and set(columns) - set(table.column_names):
        raise InputError(f"{path}: holds no column {min(set(columns) - set(table.column_names))!r}")
    return table


def keys_in(path: Path) -> list[str]:
    """Keys of a part; errors as for ``read``."""
    return read(path, columns=["key"]).column("key").to_pylist()


def schema_of(path: Path) -> pa.Schema:
    """Arrow schema of a Parquet file; errors as for ``read``."""
    with _sound(path):
        return _opened(path).schema_arrow


def rows_in(path: Path) -> int:
    """Rows of a Parquet file; errors as for ``read``."""
    with _sound(path):
        return _opened(path).metadata.num_rows


def groups(path: Path, *, rows: int | None = None) -> Iterator[pa.Table]:
    """The rows of a file, one row group or ``rows`` of them at a time; errors as for ``read``."""
    with _sound(path):
        file = _opened(path)
        if rows is None:
            yield from (file.read_row_group(number) for number in range(file.num_row_groups))
        else:
            yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_size=rows))


def widest(schemas: Sequence[pa.Schema]) -> dict[str, pa.DataType]:
    """The columns of all schemas with a type that holds them; a column of two kinds becomes text."""
    kinds: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            kinds[field.name] = _wider(kinds.get(field.name, field.type), field.type)
    return kinds


def cast(table: pa.Table, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """The table with these columns; those it lacks are null."""
    return pa.table(
        {
            name: table.column(name).cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
            for name, kind in kinds.items()
        }
    )


def _wider(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    try:
        pair = [pa.schema({"x": left}), pa.schema({"x": right})]
        return pa.unify_schemas(pair, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _opened(path: Path) -> pq.ParquetFile:
    file = pq.ParquetFile(regular(path), page_checksum_verification=True)
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    claimed = sum(max(column.total_uncompressed_size, 4 * column.num_values) for column in columns)
    size = path.stat().st_size
    if claimed > max(ALWAYS_FINE, MOST_INFLATED * size):
        raise InputError(f"{path}: claims {claimed:,} bytes of values in a file of {size:,}; damaged, or made to harm")
    return file


def _sound(path: Path) -> contextlib.AbstractContextManager[None]:
    return refusing(f"{path}: damaged or not a Parquet file")


def _compression(schema: pa.Schema) -> Mapping[str, str]:
    # nested columns are named by their leaf in Parquet, so every name that may occur is listed
    names = [name for field in schema for name in (field.name, f"{field.name}.list.element")]
    return {name: "none" if name.startswith(PLAIN) else "zstd" for name in names}
