"""Rows that are found by number, in blocks of one length that are named by their first row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from tether.core.errors import InputError
from tether.core.types import Block, Row


def cut(rows: int, *, length: int) -> list[Block]:
    """Blocks of ``length`` rows; the last is shorter."""
    return [Block(f"{start:012d}", min(length, rows - start)) for start in range(0, rows, length)]


def indices(block: Block, *, start: int, rows: int, length: int, where: str) -> range:
    """Rows of a block that ``cut`` made, from its row ``start`` on."""
    if not block.id.isdecimal() or int(block.id) % length or int(block.id) >= rows:
        raise InputError(f"{where}: no block {block.id!r} among {rows} rows in blocks of {length}")
    if start < 0:
        raise InputError(f"{where}: cannot start reading at row {start}")
    first = int(block.id)
    return range(first + start, min(first + length, rows))


class IndexedSource(ABC):
    """A source whose rows are found by number."""

    name: str
    block_rows: ClassVar[int] = 256

    @abstractmethod
    def __len__(self) -> int:
        """How many rows."""

    @abstractmethod
    def row(self, index: int) -> Row:
        """One row."""

    def blocks(self) -> Sequence[Block]:
        """Stretches of ``block_rows`` rows."""
        return cut(len(self), length=self.block_rows)

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one stretch from its row ``start`` on."""
        for index in indices(block, start=start, rows=len(self), length=self.block_rows, where=self.name):
            yield self.row(index)
