"""Data for a recipe that takes texts."""

from __future__ import annotations

from pathlib import Path

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data import open_source
from tether.data.opening import kind_of
from tether.workflows.models import Data


def open_texts(data: Data, *, where: str) -> Source:
    """What ``open_source`` gives; a table that it refuses for want of images is read by its column of texts.

    Raises:
        InputError: that of ``open_source``, also where such a table has no column of texts either.
    """
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
