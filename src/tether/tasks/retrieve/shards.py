"""Embeddings on disk: Parquet parts that are whole or absent, and the schema they share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.files import atomic_path
from tether.core.printable import encodable
from tether.core.types import Row
from tether.tasks.retrieve.rows import conform

FIXED = ("key", "embedding", "texts", "path", "thumbnail")
"""Columns with a meaning of their own; a source's column of the same name is stored as ``meta_<name>``."""
FORMAT = b"tether.format"
VERSION = b"1"


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a set of embeddings; parts of one set agree in it.

    Attributes:
        model: name under which the model was loaded.
        digest: ``model_digest`` of it.
        source: name of the source.
        source_version: its version.
    """

    model: str
    digest: str
    source: str
    source_version: str

    def metadata(self) -> dict[bytes, bytes]:
        """As the metadata of an Arrow schema."""
        return {
            FORMAT: VERSION,
            b"tether.model": self.model.encode(),
            b"tether.digest": self.digest.encode(),
            b"tether.source": self.source.encode(),
            b"tether.source_version": self.source_version.encode(),
        }


def to_table(
    rows: Sequence[Row],
    *,
    vectors: Float[np.ndarray, "n d"],
    thumbnails: Sequence[bytes | None] | None,
    origin: Origin,
) -> pa.Table:
    """Rows and their vectors as one Arrow table."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    columns: dict[str, Any] = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        "texts": pa.array([list(row.texts) for row in rows], pa.list_(pa.string())),
        "path": pa.array(
            [encodable(str(row.image)) if isinstance(row.image, Path) else None for row in rows], pa.string()
        ),
    }
    if thumbnails is not None:
        columns["thumbnail"] = pa.array(thumbnails, pa.binary())
    for name in dict.fromkeys(name for row in rows for name in row.meta):
        values = [row.meta.get(name) for row in rows]
        columns[f"meta_{name}" if name in FIXED else name] = _column(values)
    return pa.table(columns).replace_schema_metadata(origin.metadata())


def _column(values: list[object]) -> pa.Array:
    """Plain values as Arrow finds fit; whatever it has no type for becomes JSON text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def write(table: pa.Table, path: Path) -> None:
    """One Parquet file, whole or absent; vectors are noise to a compressor, so only the rest is compressed."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression=_compression(table.schema))


def join(parts: Sequence[Path], path: Path) -> None:
    """All parts, in order, as one Parquet file, whole or absent."""
    schema = shared_schema(parts)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression=_compression(schema)) as file:
        for part in parts:
            file.write_table(conform(pq.read_table(part), schema=schema, where=str(part)))


def files_of(path: Path) -> list[Path]:
    """The Parquet files of a set: the file itself, or those of a folder in the order of their names.

    Raises:
        InputError: there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if not found:
        what = "holds no .parquet file" if path.is_dir() else "no such file or folder"
        raise InputError(f"{path}: {what}; make embeddings with: tether embed SOURCE --model MODEL --out {path}")
    return found


def schema_of(path: Path) -> pa.Schema:
    """Arrow schema of a Parquet file.

    Raises:
        InputError: it is not Parquet, or is truncated.
    """
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: truncated or not a Parquet file ({error})") from None


def shared_schema(parts: Sequence[Path]) -> pa.Schema:
    """The schema that holds the columns of every part; a column of two kinds becomes text.

    Raises:
        InputError: two parts come from different models.
    """
    schemas = [schema_of(part) for part in parts]
    first = schemas[0].metadata or {}
    for part, schema in zip(parts, schemas, strict=True):
        mine = (schema.metadata or {}).get(b"tether.digest")
        if mine != first.get(b"tether.digest"):
            raise InputError(f"{part}: made by model {mine!r}, but {parts[0]} by {first.get(b'tether.digest')!r}")
    kinds: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            kinds[field.name] = _wider(kinds.get(field.name, field.type), field.type)
    kinds = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in kinds.items()}
    return pa.schema(kinds, metadata=first)


def _wider(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    try:
        pair = [pa.schema({"x": left}), pa.schema({"x": right})]
        return pa.unify_schemas(pair, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def batches(parts: Sequence[Path], *, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The rows of all parts, a bounded number at a time, fitted to a schema."""
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(batch_size=rows):
            yield conform(pa.Table.from_batches([batch]), schema=schema, where=str(part))


def _compression(schema: pa.Schema) -> Mapping[str, str]:
    # nested columns are named by their leaf in Parquet, so every name that may occur is listed
    names = [name for field in schema for name in (field.name, f"{field.name}.list.element")]
    plain = ("embedding", "thumbnail")
    return {name: "none" if name.startswith(plain) else "zstd" for name in names}
