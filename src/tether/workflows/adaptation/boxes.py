"""What the boxes of an adaptation's data are in, looked at before anything is learnt."""

from __future__ import annotations

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.bad_rows import BadRows
from tether.data.boxes import Unit, said_of_unit
from tether.data.regions import RegionColumns
from tether.data.shuffle import until_broken


def boxes_said(source: Source, columns: RegionColumns) -> list[str]:
    """The unit of the boxes, in a sentence; none where no row has boxes that can be read.

    Args:
        source: of rows with boxes.
        columns: where they stand.

    Raises:
        InputError: no row has one of the columns, or some rows look like pixels and others like shares.
    """
    known, wanted, bad = set[str](), columns.wanted(), BadRows(source.name)
    first: dict[Unit, str] = {}
    for row in (row for block in source.blocks() for row in until_broken(source, block, bad=bad)):
        if row.bad:
            continue
        known.update(map(str, row.meta))
        try:
            unit = columns.unit_of(row)
        except InputError:
            continue  # a row without boxes that can be read is counted where it is learnt from
        if unit is not None:
            first.setdefault(unit, row.key)
    if missing := [(what, name) for what, name in wanted.items() if name not in known]:
        what, name = missing[0]
        raise InputError(f"{source.name}: {what}: no column {name!r}; {closest(name, known)}; name it by {what}=COLUMN")
    if len(first) > 1:
        raise InputError(
            f"{source.name}: the boxes of {first['share']!r} look like shares of the image, those of "
            f"{first['pixel']!r} like pixels; say unit=pixel or unit=share"
        )
    return [f"{said_of_unit(unit).capitalize()}." for unit in first]
