"""Data for a recipe that takes texts."""

from __future__ import annotations

from pathlib import Path

from tether.core.atomic_io import local, read_text
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Source
from tether.core.types import Row
from tether.data import open_source
from tether.data.blocks import IndexedSource
from tether.data.opening import kind_of
from tether.workflows.models import Data

_LARGEST = 2**28
"""Bytes of a text file, at most."""


class TextLines(IndexedSource):
    """The lines of a text file, one text each; empty ones do not count."""

    def __init__(self, path: Path, *, where: str) -> None:
        """Read the file.

        Raises:
            InputError: no such file, not UTF-8, or no text in it.
        """
        try:
            lines = enumerate(read_text(path, limit=_LARGEST).split("\n"), start=1)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        self.name = str(path)
        self._lines = [(number, line.strip()) for number, line in lines if line.strip()]
        if not self._lines:
            raise InputError(f"{where}: {path}: expected at least one line of text")
        self.version = f"{hash_int(chr(10).join(line for _, line in self._lines), seed=0, salt='lines'):x}"

    def __len__(self) -> int:
        """How many texts."""
        return len(self._lines)

    def row(self, index: int) -> Row:
        """One text; its key is the number of its line."""
        number, line = self._lines[index]
        return Row(f"{self.name}:{number}", None, (line,))


def open_texts(data: Data, *, where: str) -> Source:
    """What ``open_source`` gives; a table that it refuses for want of images is read by its column of texts.

    A text file gives its lines.

    Raises:
        InputError: that of ``open_source``, also where such a table has no column of texts either.
    """
    if isinstance(data, (str, Path)) and local(data).suffix.lower() == ".txt":
        return TextLines(local(data), where=where)
    try:
        return open_source(data, where=where)
    except InputError:
        found = _without_images(data, where=where) if isinstance(data, (str, Path)) else None
        if found is None:
            raise
        return found


def _without_images(path: str | Path, *, where: str) -> Source | None:
    try:
        found = open_source({"name": kind_of(str(path), where=where), "path": str(path), "image": "none"}, where=where)
        said = any(row.texts for block in found.blocks() for row in found.read(block))
    except InputError:
        return None
    return found if said else None
