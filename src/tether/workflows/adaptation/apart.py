"""Data to measure on, without the images that were learnt from."""

from __future__ import annotations

from collections.abc import Collection

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.bad_rows import BadRows
from tether.data.labelled import PickedRows
from tether.data.shuffle import until_broken
from tether.data.sources.split import digest_of


def apart(source: Source, *, learnt: Collection[str]) -> tuple[Source, int]:
    """A source without images that were learnt from, byte for byte, and how many rows that leaves out.

    Args:
        source: to measure on; its bad rows stay, and whoever reads it names them.
        learnt: digests of the images, as ``data.sources.split.digest_of`` gives them.

    Raises:
        InputError: every image was learnt from.
    """
    bad = BadRows(source.name)
    picked: dict[tuple[str, int], None] = {}
    out = images = 0
    for block in source.blocks():
        for number, row in enumerate(until_broken(source, block, bad=bad)):
            if not row.bad and row.image is not None:
                images += 1
                if digest_of(row.image) in learnt:
                    out += 1
                    continue
            picked[block.id, number] = None
    if not out:
        return source, 0
    if out == images:
        raise InputError(f"{source.name}: every image of it was learnt from, so nothing can be measured")
    return PickedRows(source, picked, name=source.name), out


def said_of(source: Source, *, out: int) -> list[str]:
    """The sentence on rows that were left out; none where there are none."""
    return [f"{out:,} images of {source.name} were left out of what is measured, as they were learnt from."] * bool(out)
