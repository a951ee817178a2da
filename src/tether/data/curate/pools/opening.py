"""The pool behind a source that is named, and a few rows of one to try a recipe on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tether.core.component import build, schema
from tether.core.ranges import Count, checked
from tether.data.curate.pools.parquet import ParquetPool
from tether.data.curate.pools.pool import Columns, Pool, Rows
from tether.data.curate.pools.source import SourcePool
from tether.data.opening import SOURCES, keywords, kind_of, open_source


def open_pool(spec: str | Mapping[str, Any], *, where: str = "SOURCE") -> Pool:
    """The pool behind any source that ``tether.data.open_source`` takes; Parquet is read column by column.

    Raises:
        InputError: no such source.
    """
    given: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        given = dict(spec)
    else:
        name, _, rest = spec.partition(":")
        if name == "parquet" and not rest.startswith("//"):
            given = {"name": name, **keywords(rest, where=where)}
        elif name != "hf" and name not in SOURCES and kind_of(spec, where=where) == "parquet":
            given = {"name": "parquet", "path": spec}
    if given.get("name") == "parquet" and set(given) <= {"name", *schema(ParquetPool).model_fields}:
        return build(given, {"parquet": ParquetPool}, where=where)
    return SourcePool(open_source(spec, where=where))


_PIECES = 16
"""Pieces that are looked into at most."""


class SamplePool:
    """The first rows of pieces at even distances.

    It is as good a sample as the pool is mixed; of a pool in which each file is sorted it takes the heads.
    """

    @checked
    def __init__(self, pool: Pool, *, rows: Count) -> None:
        """Choose the pieces.

        Args:
            pool: where rows come from.
            rows: how many to take, about; at least 1.
        """
        self._pool = pool
        total = pool.pieces()
        count = min(total, _PIECES, rows)
        self._pieces = [index * total // count for index in range(count)]
        self._rows = -(-rows // count) if count else 0
        self.name, self.version, self.keys_unique = pool.name, f"{pool.version} ({rows} rows)", pool.keys_unique
        self.captions_column, self.image_column = pool.captions_column, pool.image_column
        self.key_column, self.meta_column = pool.key_column, pool.meta_column

    def column_names(self) -> Sequence[str]:
        """Those of the pool."""
        return self._pool.column_names()

    def pieces(self) -> int:
        """How many are looked into."""
        return len(self._pieces)

    def read(self, piece: int, *, columns: Columns, extra: Sequence[str] = ()) -> Iterator[Rows]:
        """The first rows of a chosen piece."""
        left = self._rows
        for rows in self._pool.read(self._pieces[piece], columns=columns, extra=extra):
            yield rows.slice(left)
            left -= min(left, len(rows.keys))
            if not left:
                return
