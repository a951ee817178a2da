"""The other end of ``guarded``: imports little, limits its own memory, and does one task after another."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.core.guarded import read_message, write_message

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST_SCALE = 8.0  # 576 dots an inch: a page of one point is not blown up without end
_FREE_ROWS, _MOST_TIMES = 1 << 26, 100
"""Rows that any Parquet file may claim, and that one may claim for each byte."""
_Answer = tuple[dict[str, Any], bytes]


def serve(memory: int) -> None:
    """Answer until nobody asks any more; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides when to stop
    while True:
        try:
            question, data = read_message(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer, found = _TASKS[question.pop("task")](data, memory=memory, **question)
        except MemoryError:
            answer, found = {"error": "needs more memory than it may take"}, b""
        except Exception as error:  # a damaged file raises errors of any kind
            answer, found = {"error": str(error) or type(error).__name__}, b""
        write_message(answers, answer, found)


def _first_page(data: bytes, *, memory: int, size: int) -> _Answer:
    """The first page of a PDF as RGB, at ``size`` pixels."""
    import numpy as np
    import pypdfium2

    _limit(memory)
    document = pypdfium2.PdfDocument(data)
    try:
        page = document[0]
        scale = min(size / max(*page.get_size(), 1e-3), _LARGEST_SCALE)
        pixels = np.ascontiguousarray(page.render(scale=scale, rev_byteorder=True).to_numpy()[..., :3])
    finally:
        document.close()
    return {"shape": pixels.shape}, pixels.tobytes()


def decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same with every value of a dictionary, or of lists of them, in its own place."""
    import pyarrow as pa

    columns = list(batch.columns)
    for index, column in enumerate(columns):
        kind = column.type
        if pa.types.is_dictionary(kind):
            columns[index] = column.dictionary_decode()
        elif pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
            columns[index] = column.cast(pa.list_(kind.value_type.value_type))
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _parquet(data: bytes, *, memory: int, path: str, group: int, columns: list[str], rows: int) -> _Answer:
    """Read columns of one row group to their end; half of the memory is left for who reads them afterwards."""
    import pyarrow.parquet as pq

    _limit(memory // 2)
    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
        decoded(batch)
    return {}, b""


def _parquet_footer(data: bytes, *, memory: int, path: str, size: int) -> _Answer:
    """Whether a Parquet file's footer makes sense; ``data`` is the footer where the file is elsewhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _limit(memory)
    file = pq.ParquetFile(pa.BufferReader(data) if data else path, pre_buffer=False)
    meta, names = file.metadata, file.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"columns that stand twice: {', '.join(twice)}")
    packed = rows = 0
    for group in map(meta.row_group, range(meta.num_row_groups)):
        rows += group.num_rows
        for index in range(group.num_columns):
            chunk, leaf = group.column(index), file.schema.column(index)
            packed += chunk.total_compressed_size
            if min(group.num_rows, chunk.total_compressed_size) < 0 or chunk.path_in_schema != leaf.path:
                raise ValueError("sizes below 0, or columns in disorder")
            _ = chunk.compression, chunk.dictionary_page_offset, chunk.data_page_offset, leaf.physical_type
    if packed > size or rows != meta.num_rows or rows > max(_FREE_ROWS, _MOST_TIMES * size):
        raise ValueError(f"it claims {rows:,} rows and {packed:,} bytes of values in {size:,} bytes")
    return {}, b""


def _limit(memory: int) -> None:
    """From now on at most so many bytes more than now; only Linux tells how many there are."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))


_TASKS = {
    "begin": lambda data, *, memory: ({}, b""),
    "first_page": _first_page,
    "parquet": _parquet,
    "parquet_footer": _parquet_footer,
}
