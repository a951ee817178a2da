"""Opens one Parquet file for reading batch by batch, so that memory does not grow with its row groups."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from tether.core.errors import InputError
from tether.data.paths import filesystem, is_url

# Bytes of a column in memory at once; Arrow's own choice is the whole column of a row group, pictures and all.
_NEAR, _FAR = 1 << 20, 1 << 23


def open_parquet(file: str) -> pq.ParquetFile:
    """A file of this machine or behind a URL.

    Raises:
        InputError: it is not Parquet, or cannot be read.
    """
    try:
        if is_url(file):
            system, inner = filesystem(file)
            return pq.ParquetFile(system.open(inner, "rb"), pre_buffer=False, buffer_size=_FAR)
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=_NEAR)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a Parquet file that can be read: {error}") from error
