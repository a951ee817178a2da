"""Which rows of a source are looked at, and in which parts: all in order, or so many spread over the whole of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import Block, Row

STRETCH = 64
"""Rows that are read in one go where not all rows can be looked at, at most."""
LEAST_STRETCHES = 8
"""Stretches that a small limit is spread over."""
MOST_BLOCKS = 64
"""Blocks of unknown length that the limit is shared among at a time."""

Step = tuple[int, int, bool]
"""What was read in one go of a block of unknown length: its place among the blocks, rows, whether it ended there."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Up to ``rows`` rows of a block from row ``start`` on."""

    block: Block
    start: int
    rows: int


class SourcePart:
    """A few pieces of a source as a source of their own.

    Attributes:
        name: of the whole source.
        version: of the whole source.
        pieces: what it holds.
        identity: a short name for which rows those are.
        steps: what reading it took of blocks of unknown length: nothing, it knows its rows.
    """

    steps: Sequence[Step] = ()

    def __init__(self, cursor: _Cursor, pieces: Sequence[Piece]) -> None:
        """Take the pieces; nothing is read yet."""
        self.name, self.version = cursor.source.name, cursor.source.version
        self.pieces = tuple(pieces)
        self.identity = _named([(piece.block.id, piece.start, piece.rows) for piece in self.pieces])
        self._cursor = cursor

    @classmethod
    def of(cls, source: Source, pieces: Sequence[Piece]) -> SourcePart:
        """Pieces of a source, wherever that was opened."""
        return cls(_Cursor(source), pieces)

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(piece.rows for piece in self.pieces)

    def blocks(self) -> Sequence[Block]:
        """One for each piece."""
        return [Block(str(number), piece.rows) for number, piece in enumerate(self.pieces)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one piece from its row ``start`` on."""
        piece = self.pieces[int(block.id)]
        return self._cursor.read(piece.block, start=piece.start + start, rows=piece.rows - start)

    def pass_over(self, steps: Sequence[Step]) -> None:
        """Leave it unread; no other part depends on it."""


class _Cursor:
    """Reads stretches of blocks; one that begins where the last one ended goes on with the same iterator."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._place: tuple[str, int] | None = None
        self._rows: Iterator[Row] = iter(())

    def read(self, block: Block, *, start: int, rows: int) -> Iterator[Row]:
        if self._place != (block.id, start):
            self._rows = iter(self.source.read(block, start=start))
        self._place = None  # until all were taken
        for row in islice(self._rows, rows):
            yield row
            start += 1
        self._place = (block.id, start)


class NextRows:
    """The next rows of a walk as a source of their own, read once and in order.

    Attributes:
        name: of the whole source.
        version: of the whole source.
        identity: a short name for what was read before it, on which its rows depend.
    """

    def __init__(self, walk: Walk, *, identity: str) -> None:
        """Stand where the walk stands."""
        self.name, self.version = walk.source.name, walk.source.version
        self.identity = identity
        self._walk = walk

    @property
    def steps(self) -> Sequence[Step]:
        """What reading it took of the blocks so far."""
        return tuple(self._walk.steps)

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(rows for _, rows, _ in self._walk.steps)

    def blocks(self) -> Sequence[Block]:
        """All its rows as one."""
        return [Block("rows")]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """Its rows; a block that breaks ends them, and the next part goes on behind it."""
        return islice(self._walk.take(), start, None)

    def pass_over(self, steps: Sequence[Step]) -> None:
        """Go on behind what was read of it before."""
        self._walk.pass_over(steps)


class Walk:
    """Parts of a source whose blocks do not tell their lengths; each must be read, or passed over, before the next.

    A limit is shared among up to 64 blocks that lie evenly among all. What blocks that end early leave over goes to
    those after them, then to blocks not opened so far, and at last to those that go on. Without one they come in order.

    Attributes:
        source: the whole.
        steps: what was read since the last part began.
    """

    def __init__(self, source: Source, *, limit: int | None, part_rows: int) -> None:
        """Stand before the first row."""
        self.source = source
        self.steps: list[Step] = []
        self._blocks = source.blocks()
        self._part_rows = part_rows
        self._left = sys.maxsize if limit is None else limit
        self._among = len(self._blocks) if limit is None else MOST_BLOCKS
        self._taken = [0] * len(self._blocks)
        self._ended = [False] * len(self._blocks)
        self._turns: list[int] = []  # blocks that the rest of the limit is shared among, the one in work first
        self._quota = 0  # rows that the one in work may still give
        self._rows: Iterator[Row] | None = None

    def __iter__(self) -> Iterator[NextRows]:
        """The parts, until the limit is reached or all blocks have ended."""
        identity = _named([self._part_rows, self._among, self._left, [block.id for block in self._blocks]])
        while self._turn() is not None:
            self.steps = []
            yield NextRows(self, identity=identity)
            if not self.steps:
                return
            identity = _named([identity, self.steps])

    def take(self) -> Iterator[Row]:
        """The rows of one part from here on.

        Raises:
            InputError: a block breaks; it counts as ended.
        """
        most = self._part_rows
        while most and (block := self._turn()) is not None:
            opened = self._rows is None
            if self._rows is None:
                self._rows = iter(self.source.read(self._blocks[block], start=self._taken[block]))
            row = None
            try:
                row = next(self._rows, None)
            finally:
                self._note((block, int(row is not None), row is None), new=opened)
            if row is not None:
                most -= 1
                yield row

    def pass_over(self, steps: Sequence[Step]) -> None:
        """Stand where reading these steps led to."""
        self._rows = None
        for step in steps:
            self._turn()
            self._note(step, new=True)

    def _turn(self) -> int | None:
        """The block in work, or None at the end."""
        if not self._left:
            return None
        if not self._turns:
            live = [block for block, ended in enumerate(self._ended) if not ended]
            among = [block for block in live if not self._taken[block]] or live
            if not among:
                return None
            self._turns = [among[at] for at in _evenly(len(among), count=min(self._left, self._among))]
            self._quota = -(-self._left // len(self._turns))
        return self._turns[0]

    def _note(self, step: Step, *, new: bool) -> None:
        block, rows, ended = step
        if new or not self.steps:
            self.steps.append(step)
        else:
            self.steps[-1] = (block, self.steps[-1][1] + rows, ended)
        self._taken[block] += rows
        self._left -= rows
        self._quota -= rows
        self._ended[block] = ended
        if ended or not self._quota:
            self._rows = None
            self._turns = self._turns[1:]
            self._quota = -(-self._left // max(1, len(self._turns)))


def divide(source: Source, *, part_rows: int, limit: int | None = None) -> list[SourcePart] | Walk:
    """Parts of up to ``part_rows`` rows that hold ``limit`` rows, or all when there are fewer or it is None.

    Where not all rows are wanted and the blocks know their lengths, stretches of up to 64 rows are taken evenly over
    the whole source; where they do not, the first rows of blocks that lie evenly among all.

    Raises:
        InputError: a source without a block, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1 row, got {limit}")
    blocks = source.blocks()
    if not blocks:
        raise InputError(f"{source.name}: the data set is empty")
    known = [block.rows for block in blocks if block.rows is not None]
    if len(known) < len(blocks):
        return Walk(source, limit=limit, part_rows=part_rows)
    if limit is None or sum(known) <= limit:
        pieces = [Piece(block, 0, rows) for block, rows in zip(blocks, known, strict=True)]
    else:
        pieces = _stretches(blocks, known, limit=limit)
    cursor = _Cursor(source)
    return [SourcePart(cursor, some) for some in _filled(pieces, rows=part_rows)]


def _stretches(blocks: Sequence[Block], sizes: Sequence[int], *, limit: int) -> list[Piece]:
    """Stretches with equal gaps, the first at the start and the last at the end; one that crosses a block is two."""
    ends = np.cumsum(sizes)
    count = max(-(-limit // STRETCH), min(limit, LEAST_STRETCHES))
    spare = int(ends[-1]) - limit
    pieces = []
    for number in range(count):
        first, last = (limit * edge // count for edge in (number, number + 1))
        at, rows = first + spare * number // max(1, count - 1), last - first
        while rows:
            block = int(np.searchsorted(ends, at, side="right"))
            start = at - int(ends[block] - sizes[block])
            here = min(rows, sizes[block] - start)
            pieces.append(Piece(blocks[block], start, here))
            at, rows = at + here, rows - here
    return pieces


def _evenly(total: int, *, count: int) -> list[int]:
    """``count`` places below ``total`` (all of them where there are fewer), as even as whole numbers allow."""
    count = min(count, total)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def _named(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def _filled(pieces: Sequence[Piece], *, rows: int) -> Iterator[list[Piece]]:
    """The pieces in lists of so many rows; the last may hold fewer."""
    held: list[Piece] = []
    room = rows
    for piece in pieces:
        while piece.rows >= room:
            yield [*held, replace(piece, rows=room)]
            piece = replace(piece, start=piece.start + room, rows=piece.rows - room)
            held, room = [], rows
        if piece.rows:
            held.append(piece)
            room -= piece.rows
    if held:
        yield held


def source_digest(source: Source, *, spec: str) -> str:
    """A short name for what a source holds: its name, version and blocks, the words it was opened with, its first row.

    Raises:
        InputError: a source without a row.
    """
    blocks = source.blocks()
    first = next((row for block in blocks for row in source.read(block)), None)
    if first is None:
        raise InputError(f"{source.name}: the data set is empty")
    found = hashlib.blake2b(digest_size=8)
    found.update(json.dumps([source.name, source.version, spec, [(one.id, one.rows) for one in blocks]]).encode())
    found.update(repr((first.key, first.texts)).encode())
    image = first.image
    found.update(image.tobytes() if isinstance(image, np.ndarray) else repr(image).encode())
    return found.hexdigest()
