"""Embeddings on disk: rows and vectors as an Arrow table, and the schema that several files share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.printable import encodable
from tether.core.types import Row
from tether.data.features import parquet
from tether.tasks.retrieve.rows import DIGEST, MODEL, conform, stored_name

FIXED = ("key", "embedding", "texts", "path", "thumbnail")
"""Columns with a meaning of their own; a source's column of the same name is stored as ``meta_<name>``."""
STATE, BAD_ROWS = "embed.json", "bad_rows.jsonl"
"""Files beside the parts: what they are of, and the log of rows without vectors."""
FORMAT = b"tether.format"
VERSION = b"1"
NAMES = ("model", "digest", "source", "source_version")
"""Attributes of ``Origin`` that tell one set of embeddings from another."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a set of embeddings; parts of one set agree in it.

    Attributes:
        model: name under which the model was loaded.
        digest: ``model_digest`` of it.
        source: name of the source.
        source_version: its version.
        numbers: columns of the source that hold numbers as text, as those of a CSV do; they are stored as numbers.
    """

    model: str
    digest: str
    source: str
    source_version: str
    numbers: Mapping[str, type[int] | type[float]] = field(default_factory=dict, compare=False)

    def names(self) -> dict[str, str]:
        """What tells one set from another, as plain values."""
        return {name: getattr(self, name) for name in NAMES}

    def metadata(self) -> dict[bytes, bytes]:
        """As the metadata of an Arrow schema."""
        return {
            FORMAT: VERSION,
            MODEL: self.model.encode(),
            DIGEST: self.digest.encode(),
            b"tether.source": self.source.encode(),
            b"tether.source_version": self.source_version.encode(),
        }


def to_table(
    rows: Sequence[Row],
    *,
    vectors: Float[np.ndarray, "n d"],
    thumbnails: Sequence[bytes | None] | None,
    origin: Origin,
    folder: Path,
) -> pa.Table:
    """Rows and their vectors as one Arrow table; paths are relative to the source's folder."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    columns: dict[str, Any] = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        "texts": pa.array([list(row.texts) for row in rows], pa.list_(pa.string())),
        "path": pa.array([_inside(folder, row.image) for row in rows], pa.string()),
    }
    if thumbnails is not None:
        columns["thumbnail"] = pa.array(thumbnails, pa.binary())
    for name in dict.fromkeys(name for row in rows for name in row.meta):
        values = [row.meta.get(name) for row in rows]
        stored = f"meta_{name}" if name in FIXED else stored_name(name)
        if stored in columns:
            raise InputError(f"column {name!r}: would be stored as {stored!r}, which is there already; rename it")
        columns[stored] = _column(values, number=origin.numbers.get(name))
    return pa.table(columns).replace_schema_metadata(origin.metadata())


def _inside(folder: Path, image: object) -> str | None:
    """Where an image file lies in the source's folder or in the current one; of one that lies elsewhere, its name."""
    if not isinstance(image, Path):
        return None
    full = image.absolute()
    for root in (folder.absolute(), Path.cwd()):
        if full.is_relative_to(root):
            return encodable(full.relative_to(root).as_posix())
    return encodable(full.name)


def _column(values: list[object], *, number: type[int] | type[float] | None = None) -> pa.Array:
    """Plain values as Arrow finds fit; whatever it has no type for becomes JSON text."""
    if number is not None:
        kind = pa.int64() if number is int else pa.float64()
        return pa.array([None if value in ("", None) else number(str(value)) for value in values], kind)
    values = [encodable(value) if isinstance(value, str) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeError, OverflowError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def join(parts: Sequence[Path], path: Path) -> None:
    """All parts, in order, as one Parquet file, written atomically."""
    schema = shared_schema(parts)
    fitted = (conform(group, schema=schema, where=str(part)) for part in parts for group in parquet.groups(part))
    parquet.write_groups(fitted, path, schema=schema)


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
        raise InputError(f"{path}: {what}; make one with: tether embed SOURCE --model MODEL --out FILE.parquet")
    return found


def shared_schema(parts: Sequence[Path]) -> pa.Schema:
    """The schema that holds the columns of every part; a column of two kinds becomes text.

    Raises:
        InputError: two parts come from different models.
    """
    schemas = [parquet.schema_of(part) for part in parts]
    first = schemas[0].metadata or {}
    for part, schema in zip(parts, schemas, strict=True):
        mine = (schema.metadata or {}).get(DIGEST)
        if mine != first.get(DIGEST):
            raise InputError(f"{part}: made by model {mine!r}, but {parts[0]} by {first.get(b'tether.digest')!r}")
    kinds = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in parquet.widest(schemas).items()}
    text = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in first.items()}
    return pa.schema(kinds, metadata=text)


def batches(parts: Sequence[Path], *, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The rows of all parts, a bounded number at a time, fitted to a schema."""
    for part in parts:
        for some in parquet.groups(part, rows=rows):
            yield conform(some, schema=schema, where=str(part))
