"""Any source of rows as a pool: rows become columns, pictures are written as their encoded bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import ImageLike, Row
from tether.data.curate.pool import BATCH_ROWS, Columns, Rows, group

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA = pa.schema([("key", pa.string()), ("image", _IMAGE), ("texts", pa.list_(pa.string())), ("meta", pa.string())])


class SourcePool:
    """A ``core.protocols.Source`` read row by row.

    Written columns are ``key``, ``image`` (bytes and file name, as Hugging Face lays pictures out), ``texts`` and
    ``meta`` (the row's other columns as JSON).
    """

    keys_unique = False
    captions_column = "texts"

    def __init__(self, source: Source) -> None:
        """Group the source's blocks into pieces."""
        self._source = source
        self._blocks = list(source.blocks())
        self._ranges = group([block.rows for block in self._blocks])
        self.name, self.version = source.name, source.version

    def pieces(self) -> int:
        """Number of groups of blocks."""
        return len(self._ranges)

    def read(self, piece: int, *, columns: Columns) -> Iterator[Rows]:
        """Rows of the piece's blocks; a block that breaks is named under its id and the next one goes on."""
        held: list[Row] = []
        bad: list[tuple[str, str]] = []
        for block in self._blocks[slice(*self._ranges[piece])]:
            try:
                for row in self._source.read(block):
                    held.append(row)
                    if len(held) == BATCH_ROWS:
                        yield _rows(held, bad, columns)
                        held, bad = [], []
            except InputError as error:
                bad.append((block.id, str(error)))
        if held or bad:
            yield _rows(held, bad, columns)


def _rows(held: list[Row], bad: list[tuple[str, str]], columns: Columns) -> Rows:
    good: list[Row] = []
    for row in held:
        problem = _problem(row)
        if problem:
            bad.append((row.key, problem))
        else:
            good.append(row)
    keys = pa.array([row.key for row in good], pa.string())
    texts = pa.array([list(row.texts) for row in good], pa.list_(pa.string()))
    if columns == "captions":
        return Rows(keys, texts, None, tuple(bad))
    images = [_encoded(row.image) for row in good]
    meta = [json.dumps(dict(row.meta), ensure_ascii=False, sort_keys=True, default=_plain) for row in good]
    table = pa.table([keys, pa.array(images, _IMAGE), texts, pa.array(meta, pa.string())], schema=_SCHEMA)
    return Rows(keys, texts, table, tuple(bad))


def _problem(row: Row) -> str | None:
    if "bad" in row.meta:  # how a source hands on a row that it could not read
        return str(row.meta["bad"])
    for place, text in enumerate(row.texts):
        if not isinstance(text, str):
            return f"caption {place}: expected a text, got {type(text).__name__}"
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"caption {place}: not UTF-8: {error.reason}"
    if isinstance(row.image, Path) and not row.image.is_file():
        return f"{row.image}: no such file"
    if isinstance(row.image, bytes) and not row.image:
        return "the picture has zero bytes"
    return None


def _plain(value: object) -> object:
    """What JSON has no word for: arrays become lists, everything else its text."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _encoded(image: ImageLike | None) -> dict[str, bytes | str | None] | None:
    if image is None:
        return None
    if isinstance(image, np.ndarray):
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}
    if isinstance(image, Path):
        return {"bytes": image.read_bytes(), "path": image.name}
    return {"bytes": bytes(image), "path": None}
