"""Which rows of a source are looked at, and in which pieces: bounded in number, spread over the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import Block, Row

PART_ROWS = 512
"""Rows of one part: the most that a kill costs."""
STRETCH = 64
"""Rows that are read in one go where not all rows can be looked at."""
MOST_BLOCKS = 64
"""Blocks that are opened where they do not tell their lengths."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Up to ``rows`` rows of a block from row ``start`` on."""

    block: Block
    start: int
    rows: int


class Part:
    """A few pieces of a source as a source of their own.

    Attributes:
        name: of the whole source.
        version: of the whole source.
        pieces: what it holds.
    """

    def __init__(self, source: Source, pieces: Sequence[Piece]) -> None:
        """Take the pieces; nothing is read yet."""
        self.name, self.version = source.name, source.version
        self.pieces = tuple(pieces)
        self._source = source

    def blocks(self) -> Sequence[Block]:
        """One for each piece."""
        return [Block(str(number), piece.rows) for number, piece in enumerate(self.pieces)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one piece from its row ``start`` on."""
        piece = self.pieces[int(block.id)]
        rows = self._source.read(piece.block, start=piece.start + start)
        return islice(rows, piece.rows - start)


def divide(source: Source, *, limit: int) -> list[Part]:
    """Parts of about 512 rows that hold ``limit`` rows, or all when there are fewer.

    Where not all rows are wanted and the blocks know their lengths, stretches of 64 rows are taken evenly over the
    whole source; where they do not, the first rows of blocks that lie evenly among all.

    Raises:
        InputError: a source without a block, or a limit below 1.
    """
    if limit < 1:
        raise InputError(f"limit: expected at least 1 row, got {limit}")
    blocks = source.blocks()
    if not blocks:
        raise InputError(f"{source.name}: the data set is empty")
    sizes = [block.rows for block in blocks]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        chosen = [blocks[place] for place in _evenly(len(blocks), count=min(limit, MOST_BLOCKS))]
        share = -(-limit // len(chosen))
        pieces = [Piece(block, 0, share) for block in chosen]
    elif sum(known) <= limit:
        pieces = [piece for block in blocks for piece in _cut(block, block.rows or 0)]
    else:
        pieces = _stretches(blocks, known, limit=limit)
    return _gathered(source, pieces)


def _cut(block: Block, rows: int) -> list[Piece]:
    return [Piece(block, start, min(PART_ROWS, rows - start)) for start in range(0, rows, PART_ROWS)]


def _stretches(blocks: Sequence[Block], sizes: Sequence[int], *, limit: int) -> list[Piece]:
    """Evenly spaced stretches; one that crosses into the next block goes on there."""
    ends = np.cumsum(sizes)
    length = min(limit, STRETCH)
    pieces = []
    left = limit
    for at in _evenly(int(ends[-1]), count=-(-limit // length), room=length):
        rows = min(length, left)
        left -= rows
        while rows:
            block = int(np.searchsorted(ends, at, side="right"))
            start = at - int(ends[block] - sizes[block])
            here = min(rows, sizes[block] - start)
            pieces.append(Piece(blocks[block], start, here))
            at, rows = at + here, rows - here
    return pieces


def _evenly(total: int, *, count: int, room: int = 1) -> list[int]:
    """``count`` places in 0 to ``total - room``, as even as whole numbers allow, none twice."""
    last = max(0, total - room)
    return np.unique(np.linspace(0, last, min(count, total)).astype(np.int64)).tolist()


def _gathered(source: Source, pieces: Sequence[Piece]) -> list[Part]:
    """Small pieces together until a part is full."""
    parts: list[Part] = []
    held: list[Piece] = []
    for piece in pieces:
        if held and sum(one.rows for one in held) + piece.rows > PART_ROWS:
            parts.append(Part(source, held))
            held = []
        held.append(piece)
    return [*parts, Part(source, held)]
