"""The pool behind a source that is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.core.component import build, schema
from tether.data.curate.pools.parquet import ParquetPool
from tether.data.curate.pools.pool import Pool
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
