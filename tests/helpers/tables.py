"""Sources of given rows, encoded images, tars, and what a source, a folder or a batch holds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import Block, Row


class Listed:
    """A source of given rows, in blocks of ``length``; the row numbered ``broken`` breaks its block."""

    name, version = "listed", "1"

    def __init__(self, rows: Sequence[Row], *, length: int = 1 << 30, broken: int | None = None) -> None:
        self.rows, self.length, self.broken = rows, length, broken

    def blocks(self) -> list[Block]:
        return [Block(str(start)) for start in range(0, len(self.rows), self.length)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        first = int(block.id)
        for index in range(first + start, min(first + self.length, len(self.rows))):
            if index == self.broken:
                raise InputError(f"block {block.id} breaks here")
            yield self.rows[index]


def rows_of(source: Source) -> list[Row]:
    return [row for block in source.blocks() for row in source.read(block)]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(value: int = 0, kind: str = "PNG") -> bytes:
    """A small image of one grey."""
    return encoded(Image.new("RGB", (6, 6), (value, value, value)), kind)


def tarred(path: Path, files: Iterable[tuple[str, bytes | tarfile.TarInfo]], *, mode: Any = "w") -> Path:
    """A tar of these members; a header stands for what is no plain file."""
    with tarfile.open(path, mode) as archive:
        for name, data in files:
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pairs(texts: Sequence[str | None], *, keys: Sequence[str] = (), **columns) -> pa.RecordBatch:
    named = list(keys) or [f"row {index}" for index in range(len(texts))]
    return pa.record_batch({"key": named, "text": pa.array(texts, pa.string()), **columns})
