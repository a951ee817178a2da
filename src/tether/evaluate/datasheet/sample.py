"""Captions of a pool and of what was kept of it, all of them where there are few, else a sample."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tether.data.curate.pools.opening import SamplePool, open_pool
from tether.data.curate.pools.pool import Pool

MOST = 10_000
"""Rows that are read of each side."""


@dataclass(frozen=True, slots=True)
class Captions:
    """Captions of one side.

    Attributes:
        texts: (n,) strings.
        total: how many pairs the side has.
        complete: whether these are all.
    """

    texts: pa.StringArray
    total: int
    complete: bool


def captions_of(pool: Pool | None, *, rows: int, total: int, most: int = MOST) -> Captions:
    """The captions of a pool of ``rows`` rows; ``None`` has none."""
    if pool is None:
        return Captions(pa.array([], pa.string()), total, True)
    complete = rows <= most
    read = pool if complete else SamplePool(pool, rows=most)
    found = [
        rows.texts.flatten().drop_null()
        for piece in range(read.pieces())
        for rows in read.read(piece, columns="captions")
    ]
    return Captions(pa.concat_arrays(found) if found else pa.array([], pa.string()), total, complete)


def kept_pool(out: Path, *, written_as: str, of: Pool) -> Pool | None:
    """What a curation of a pool wrote, or None when nothing was kept."""
    ending = "parquet" if written_as == "parquet" else "tar"
    if not any(out.glob(f"part-*.{ending}")):
        return None
    # Signs of a pattern in the folder's own name stand for themselves.
    pattern = f"{glob.escape(str(out)).replace('{', '[{]')}/part-*.{ending}"
    if ending == "tar":
        return open_pool({"name": "webdataset", "path": pattern})
    columns = {"image": of.image_column, "caption": of.captions_column, "key": of.key_column}
    return open_pool({"name": "parquet", "path": pattern, **{name: at for name, at in columns.items() if at}})
