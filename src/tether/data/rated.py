"""Images with a number each, such as people's ratings: read, checked, and found among other images by their keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import Source
from tether.core.types import Row
from tether.data.image_file import image_problem
from tether.data.labelled import PickedRows
from tether.data.opening import open_source


@dataclass(frozen=True, slots=True)
class RatedImages:
    """Images and their numbers.

    Attributes:
        source: of the images.
        numbers: key of each image to its number, in the source's order.
    """

    source: Source
    numbers: Mapping[str, float]


def number_of(row: Row, column: str, *, where: str) -> float:
    """The finite number in a row's column.

    Raises:
        InputError: no such column, or something else; it names the row and what came.
    """
    if column not in row.meta:
        known = ", ".join(sorted(map(str, row.meta))) or "none"
        raise InputError(f"{where}: row {quoted(row.key)} has no column {column!r}; its columns: {known:.300}")
    value: Any = row.meta[column]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: row {quoted(row.key)}: {column}: expected a finite number, got {quoted(value)}")
    return number


def read_rated(data: Any, *, column: str, among: Source | None = None, where: str = "--examples") -> RatedImages:
    """Read rated images; every row must be good, as there are few.

    Args:
        data: what ``data.open_source`` takes, with a column of numbers; or a table without images whose keys are those
            of ``among``.
        column: of the numbers.
        among: where images of such a table are.
        where: what asks, for errors.

    Raises:
        InputError: a number that is none, an image that is missing or comes twice, or a key that ``among`` has not.
    """
    source, bare = _opened(data, where=where, keyed=among is not None)
    numbers: dict[str, float] = {}
    seen: set[str] = set()
    for row in (row for block in source.blocks() for row in source.read(block)):
        if row.bad or (row.image is None and not bare):
            raise InputError(f"{where}: {source.name}: row {quoted(row.key)}: {row.bad or 'has no image'}")
        if isinstance(row.image, Path) and not bare and (problem := image_problem(row.image)):
            raise InputError(f"{where}: {source.name}: row {quoted(row.key)}: {row.image}: {problem}")
        image = str(row.image) if isinstance(row.image, Path) else row.key
        if row.key in numbers or image in seen:
            raise InputError(
                f"{where}: {source.name}: {quoted(image, most=300)} comes twice, again in row {quoted(row.key)}; "
                "expected one row"
            )
        seen.add(image)
        numbers[row.key] = number_of(row, column, where=f"{where}: {source.name}")
    if not bare:
        return RatedImages(source, numbers)
    assert among is not None
    picked: dict[tuple[str, int], tuple[tuple[str, ...], Mapping[str, object]] | None] = {}
    found: dict[str, float] = {}
    for block in among.blocks():
        for number, row in enumerate(among.read(block)):
            if row.key in numbers and not row.bad:
                if row.key in found:
                    raise InputError(f"{where}: {among.name} has two images with the key {quoted(row.key)}")
                found[row.key] = numbers[row.key]
                picked[block.id, number] = row.texts, {column: found[row.key]}
    if missing := [key for key in numbers if key not in found]:
        raise InputError(
            f"{where}: {len(missing)} of {len(numbers)} keys are no image of {among.name}: {quoted(missing[0])}"
        )
    return RatedImages(PickedRows(among, picked, name=source.name), found)


def _opened(data: Any, *, where: str, keyed: bool) -> tuple[Source, bool]:
    """The source, each line of a table a row of its own, and whether it has keys in place of images."""
    named = str(data) if isinstance(data, (str, Path)) else ""
    if ":" in named or not named.lower().endswith((".csv", ".tsv")):
        return open_source(data, where=where), False
    spec = {"name": "csv", "path": named, "group": "none"}
    try:
        return open_source(spec, where=where), False
    except InputError:
        if not keyed:
            raise
        try:
            return open_source({**spec, "image": "none", "key": "key"}, where=where), True
        except InputError:
            pass
        raise
