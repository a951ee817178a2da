"""What every set needs: settings checked by value, and rows cut into blocks of one length."""

from __future__ import annotations

from collections.abc import Iterable

from tether.core.errors import InputError
from tether.core.types import Block


def one_of(value: object, known: Iterable[str], *, where: str) -> None:
    """Refuse a word that is not among the known ones; ``where`` is e.g. ``emoji: split``."""
    words = list(known)
    if value not in words:
        raise InputError(f"{where}: expected one of {', '.join(words)}, got {value!r}")


def whole(value: object, low: int, high: int, *, where: str) -> None:
    """Refuse what is not a whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{where}: expected a whole number from {low} to {high}, got {value!r}")


def share(value: object, *, where: str) -> None:
    """Refuse what is not a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{where}: expected a number from 0 to 1, got {value!r}")


def cut(rows: int, *, length: int) -> list[Block]:
    """Blocks of ``length`` rows, named by their first row; the last is shorter."""
    return [Block(f"{start:012d}", min(length, rows - start)) for start in range(0, rows, length)]


def indices(block: Block, *, start: int, rows: int, length: int, where: str) -> range:
    """Rows of a block that ``cut`` made, from its row ``start`` on."""
    if not block.id.isdecimal() or int(block.id) % length or int(block.id) >= rows:
        raise InputError(f"{where}: no block {block.id!r} among {rows} rows in blocks of {length}")
    if start < 0:
        raise InputError(f"{where}: cannot start reading at row {start}")
    first = int(block.id)
    return range(first + start, min(first + length, rows))
