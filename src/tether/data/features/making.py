"""How the rows of one part become features: read, decoded and handed to whoever makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
from torch import Tensor

from tether.core.errors import InputError
from tether.core.printable import encodable
from tether.core.protocols import Source
from tether.core.types import Block, ImageSpec, Row
from tether.data.bad_rows import BadRows
from tether.data.features.selection import NextRows, SourcePart, Step
from tether.data.in_order import ordered

DUPLICATE = "duplicate key; the first row of that key is kept"
Refuse = Callable[[str, str], None]
"""Called with the key of a row that has no features, and why."""


class PartMaker(Protocol):
    """Makes the features of the rows of one part."""

    def add(self, rows: list[Row], pixels: Tensor, *, refuse: Refuse) -> None:
        """The next rows and their images."""

    def table(self) -> pa.Table:
        """All rows that were added and not refused, in order, with ``key`` and other columns."""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of the rows of a part.

    Attributes:
        table: features that are new; None without any.
        order: keys of all rows that were read, in order.
        count: rows that were read, and breaks.
        rows: how far in the source they reach.
        steps: what reading them took.
    """

    table: pa.Table | None
    order: Sequence[str]
    count: int
    rows: int
    steps: Sequence[Step]


class Making(Protocol):
    """Makes parts: one after another in this process, or several at a time elsewhere."""

    ahead: int
    """Parts that may be begun before the first of them is finished."""

    def begin(self, number: int, part: SourcePart | NextRows, *, kept: Set[str]) -> None:
        """Begin a part whose rows in ``kept`` have features; one of ``NextRows`` is read before the next one begins."""

    def finish(self, number: int, *, known: Set[str], account: BadRows, tell: Callable[[int], None]) -> Made:
        """What became of it; rows in ``known`` came before it, ``tell`` is told how many of its rows are done."""
        ...


class LocalParts:
    """Makes parts in this process, each when it is asked for."""

    ahead = 0

    def __init__(
        self,
        maker: Callable[[int, int | None], PartMaker],
        *,
        image_spec: ImageSpec,
        batch_size: int,
        workers: int,
        parts: int | None,
    ) -> None:
        """See ``make_parts``.

        Args:
            maker: called with a part's number and ``parts``.
            image_spec: how the model wants its images.
            batch_size: rows that a maker gets at a time.
            workers: threads that decode ahead.
            parts: how many there are, where that is known.
        """
        self._maker, self._parts = maker, parts
        self._settings: dict[str, Any] = {"image_spec": image_spec, "batch_size": batch_size, "workers": workers}
        self._begun: dict[int, tuple[SourcePart | NextRows, Set[str]]] = {}

    def begin(self, number: int, part: SourcePart | NextRows, *, kept: Set[str]) -> None:
        """Remember it."""
        self._begun[number] = part, kept

    def finish(self, number: int, *, known: Set[str], account: BadRows, tell: Callable[[int], None]) -> Made:
        """Read and make it."""
        part, kept = self._begun.pop(number)
        reader = PartReader(part, kept=kept, known=known)
        made, tried = self._maker(number, self._parts), 0
        for rows, pixels in ordered(reader, on_bad=account, **self._settings):
            tell(tried)
            made.add(rows, pixels, refuse=account.add)
            tried += len(rows)
        return Made(made.table() if tried else None, list(reader.order), reader.count, part.rows, part.steps)


class PartReader:
    """A part without the rows that are kept, as a source; a key that came before is a bad row.

    Attributes:
        name: of the whole source.
        version: of the whole source.
        order: keys as they come, once each.
        count: rows that were read, and breaks.
    """

    def __init__(self, part: Source, *, kept: Set[str], known: Set[str]) -> None:
        """Take a part; rows in ``kept`` have features already, those in ``known`` came before it."""
        self.name, self.version = part.name, part.version
        self._part, self._kept, self._known = part, kept, known
        self.order: dict[str, None] = {}
        self.count = 0

    def blocks(self) -> Sequence[Block]:
        """Those of the part."""
        return self._part.blocks()

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows that are to be made, and bad ones."""
        try:
            for row in self._part.read(block, start=start):
                row = replace(row, key=encodable(row.key), texts=tuple(map(encodable, row.texts)))
                self.count += 1
                if row.key in self._known or row.key in self.order:
                    yield replace(row, bad=DUPLICATE)
                    continue
                self.order[row.key] = None
                if row.key not in self._kept:
                    yield row
        except InputError:
            self.count += 1
            raise
