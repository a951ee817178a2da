"""Parquet files from anyone: opened, checked, and read in batches whose size the file cannot choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tether.core.atomic_io import regular
from tether.core.errors import InputError, reason_of
from tether.core.guarded import SECONDS, guarded
from tether.core.guarded_worker import decoded
from tether.data.archives import FREE_BYTES, MOST_TIMES
from tether.data.paths import filesystem, is_url, open_binary
from tether.data.sources.parquet_pages import Pages, pages_of

Dictionaries = Literal["kept", "decoded"]
# Bytes of a column in memory at once; Arrow's own choice is the whole column of a row group, images and all.
_NEAR, _FAR = 1 << 20, 1 << 23
BATCH_BYTES = 1 << 28
"""Bytes that a batch may have."""
_MOST_PAGES = 3 << 27
"""Bytes of the largest pages of all columns, which are in memory twice, unless the file is about as large itself."""
_SLOWEST = 10_000_000  # packed bytes a second
_FIXED = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def open_parquet(file: str) -> pq.ParquetFile:
    """A file of this machine or behind a URL, with a footer that makes sense."""
    if not is_url(file):
        regular(file)
    try:
        if is_url(file):
            system, inner = filesystem(file)
            size, opened = int(cast(Any, system.info(inner))["size"]), cast(IO[bytes], system.open(inner, "rb"))
            guarded("parquet_footer", data=_footer(opened, size), path="", size=size)
            return pq.ParquetFile(opened, pre_buffer=False, buffer_size=_FAR)
        status = Path(file).stat()
        _check_footer(file, status.st_size, status.st_mtime_ns)
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=_NEAR)
    except Exception as error:  # Arrow raises many kinds for a damaged file, Python's own among them
        raise InputError(f"{file}: not a Parquet file that can be read: {reason_of(error)[:200]}") from error


@lru_cache(maxsize=4096)
def _check_footer(file: str, size: int, changed: int) -> None:
    """In another process, since Arrow ends the one that looks at some damaged footers."""
    guarded("parquet_footer", path=str(Path(file).absolute()), size=size)


def _footer(file: IO[bytes], size: int) -> bytes:
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(0, size - 8 - length))
    return b"PAR1" + file.read(length + 8)


def read_batches(
    file: pq.ParquetFile, *, path: str, group: int, columns: Sequence[str], rows: int, dictionaries: Dictionaries
) -> Iterator[pa.RecordBatch]:
    """The rows of one row group, batch by batch.

    How many rows are decoded at once follows from what the pages' own headers say. A column of lists of which that
    tells nothing is read once in a process of its own, which may take 1 GB and some seconds, before it is read here.
    Pages of a file behind a URL are not looked at.

    Args:
        file: as ``open_parquet`` gives it.
        path: of the same file.
        group: the row group's number.
        columns: which ones.
        rows: of one batch, at most.
        dictionaries: ``kept`` as columns of their own type, or ``decoded``.
    """
    about = file.metadata.row_group(group)
    packed = sum(about.column(index).total_compressed_size for index in range(about.num_columns))
    left = max(FREE_BYTES // file.metadata.num_row_groups, 1 << 20, MOST_TIMES * packed)
    done = held = size = 0
    waiting: list[pa.RecordBatch] = []
    try:
        step = _safe_rows(file, path=path, group=group, columns=columns, rows=rows)
        for batch in file.iter_batches(step, row_groups=[group], columns=list(columns), use_threads=False):
            if dictionaries == "decoded":
                batch = decoded(batch)
            left -= batch.nbytes
            if left < 0:
                raise InputError(f"unpacks to more than {MOST_TIMES} times its size")
            done, held, size = done + len(batch), held + len(batch), size + batch.nbytes
            waiting.append(batch)
            if held + step > rows or size > BATCH_BYTES // 4:
                yield from _one(waiting)
                waiting, held, size = [], 0, 0
        yield from _one(waiting)
        if done != about.num_rows:
            raise InputError("no more rows")
    except Exception as error:  # Arrow raises many kinds for a damaged file, Python's own among them
        reason = reason_of(error)[:200]
        raise InputError(f"{path}: row group {group} breaks after {done} of {about.num_rows} rows: {reason}") from error


def _one(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if len(batches) < 2:
        return iter(batches)
    return iter(pa.Table.from_batches(batches).combine_chunks().to_batches())


def _safe_rows(file: pq.ParquetFile, *, path: str, group: int, columns: Sequence[str], rows: int) -> int:
    """Rows that can be decoded at once, up to ``rows``."""
    about = file.metadata.row_group(group)
    flat: list[tuple[Pages, int]] = []
    largest = packed = nested = 0
    for index in range(about.num_columns):
        chunk, leaf = about.column(index), file.schema.column(index)
        if not any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in columns):
            continue
        pages = _pages(chunk, path=path)
        width = max(_FIXED.get(leaf.physical_type, 4), leaf.length or 0)
        packed += chunk.total_compressed_size
        largest += pages.largest
        if leaf.max_repetition_level:  # any row may have all values
            nested += pages.most_bytes(pages.values, width=width + 8)
        else:
            flat.append((pages, width))

    def size(count: int) -> int:
        return sum(pages.most_bytes(count, width=width) for pages, width in flat)

    while rows > 1 and size(rows) > BATCH_BYTES:
        rows //= 2
    if largest > max(_MOST_PAGES, 4 * packed) or size(1) > max(2 * BATCH_BYTES, 8 * packed):
        raise InputError(f"pages that unpack to {largest:,} bytes, from {packed:,}")
    if nested > BATCH_BYTES and not is_url(path):
        place = {"path": str(Path(path).absolute()), "group": group, "columns": list(columns), "rows": rows}
        guarded("parquet", seconds=SECONDS + packed / _SLOWEST, **place)
    return rows


def _pages(chunk: pq.ColumnChunkMetaData, *, path: str) -> Pages:
    if is_url(path):
        size = max(0, chunk.total_uncompressed_size)
        return Pages(size, 0, ((chunk.num_values, size),))
    starts = [at for at in (chunk.dictionary_page_offset, chunk.data_page_offset) if at]
    with open_binary(path) as file:
        size = chunk.total_compressed_size
        return pages_of(file, start=min(starts, default=0), size=size, codec=chunk.compression)
