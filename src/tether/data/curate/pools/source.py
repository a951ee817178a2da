"""Any source of rows as a pool: rows become columns, images are written as their encoded bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tether.core.errors import InputError
from tether.core.printable import encodable, is_text
from tether.core.protocols import Source
from tether.core.types import ImageLike, Row
from tether.data.curate.engine.step import IMAGE
from tether.data.curate.pools.pool import BATCH_BYTES, BATCH_ROWS, Columns, Rows, group
from tether.data.image_file import MAX_BYTES, image_bytes, image_problem

_LOOKED_AT = 16
"""Rows whose ``meta`` tells which columns there are."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA = pa.schema([("key", pa.string()), ("image", _IMAGE), ("texts", pa.list_(pa.string())), ("meta", pa.string())])


class SourcePool:
    """A ``core.protocols.Source`` read row by row.

    Written columns are ``key``, ``image`` (bytes and file name, as Hugging Face lays images out), ``texts`` and
    ``meta`` (the row's other columns as JSON).
    """

    keys_unique = False
    captions_column = "texts"
    image_column: str | None = "image"
    key_column: str | None = "key"
    meta_column: str | None = "meta"

    def __init__(self, source: Source) -> None:
        """Group the source's blocks into pieces."""
        self._source = source
        self._blocks = list(source.blocks())
        self._ranges = group([block.rows for block in self._blocks])
        self.name, self.version = source.name, source.version
        self._names: list[str] | None = None

    def column_names(self) -> Sequence[str]:
        """``image``, and what the first rows have in ``meta``."""
        if self._names is None:
            names: dict[str, None] = {IMAGE: None}
            looked_at = 0
            for block in self._blocks:
                try:
                    for row in islice(self._source.read(block), _LOOKED_AT - looked_at):
                        names |= dict.fromkeys(row.meta)
                        looked_at += 1
                except InputError:
                    continue  # counted as bad when the block is read for good
                if looked_at >= _LOOKED_AT:
                    break
            self._names = list(names)
        return self._names

    def pieces(self) -> int:
        """Number of groups of blocks."""
        return len(self._ranges)

    def read(self, piece: int, *, columns: Columns, extra: Sequence[str] = ()) -> Iterator[Rows]:
        """Rows of the piece's blocks; a block that breaks is a bad row under its id, and the next one follows."""
        held: list[Row] = []
        bad: list[tuple[str, str]] = []
        images, size = columns == "all" or IMAGE in extra, 0
        for block in self._blocks[slice(*self._ranges[piece])]:
            try:
                for row in self._source.read(block):
                    held.append(row)
                    size += sum(len(text) for text in row.texts if isinstance(text, str))
                    size += _bytes(row.image) if images else 0
                    if len(held) == BATCH_ROWS or size >= BATCH_BYTES:
                        yield _rows(held, bad, columns, extra)
                        held, bad, size = [], [], 0
            except InputError as error:
                bad.append((encodable(block.id), encodable(str(error))))
        if held or bad:
            yield _rows(held, bad, columns, extra)


def _bytes(image: ImageLike | None) -> int:
    if isinstance(image, Path):
        try:
            return image.stat().st_size
        except (OSError, ValueError):
            return 0
    return 0 if image is None else image.nbytes if isinstance(image, np.ndarray) else len(image)


def _rows(held: list[Row], bad: list[tuple[str, str]], columns: Columns, extra: Sequence[str]) -> Rows:
    good: list[Row] = []
    for row in held:
        problem = _problem(row)
        if problem:
            bad.append((encodable(row.key), encodable(problem)))
        else:
            good.append(row)
    keys = pa.array([row.key for row in good], pa.string())
    texts = pa.array([list(row.texts) for row in good], pa.list_(pa.string()))
    images = [_encoded(row.image) for row in good] if columns == "all" or IMAGE in extra else []
    asked = {name: _column([row.meta.get(name) for row in good]) for name in extra if name != IMAGE}
    if IMAGE in extra:
        asked[IMAGE] = pa.array([image and image["bytes"] for image in images], pa.binary())
    if columns == "captions":
        return Rows(keys, texts, None, tuple(bad), asked)
    meta = [_dumped(row) for row in good]
    table = pa.table([keys, pa.array(images, _IMAGE), texts, pa.array(meta, pa.string())], schema=_SCHEMA)
    return Rows(keys, texts, table, tuple(bad), asked)


def _column(values: list[Any]) -> pa.Array:
    """One type for all values: Arrow's own choice, or their texts where they differ."""
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array([None if value is None else encodable(str(value)) for value in values], pa.string())


def _problem(row: Row) -> str | None:
    if row.bad:
        return row.bad
    for place, text in enumerate(row.texts):
        if not isinstance(text, str):
            return f"caption {place}: expected a text, got {type(text).__name__}"
        if not is_text(text):
            return f"caption {place}: not UTF-8"
    for what, text in (("key", row.key), ("meta", _dumped(row) if row.meta else "")):
        if not is_text(text):
            return f"{what}: not UTF-8"
    if isinstance(row.image, Path) and (problem := image_problem(row.image)):
        return problem
    if _bytes(row.image) > MAX_BYTES:
        return f"an image of more than {MAX_BYTES:,} bytes"
    if isinstance(row.image, bytes) and not row.image:
        return "the image has zero bytes"
    return None


def _dumped(row: Row) -> str:
    return json.dumps(dict(row.meta), ensure_ascii=False, sort_keys=True, default=_plain)


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
        return {"bytes": image_bytes(image), "path": encodable(image.name)}
    return {"bytes": bytes(image), "path": None}
