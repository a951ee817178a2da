"""Text from outside as it may be shown or written to a table: no terminal commands, no spreadsheet formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import IO

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def printable(text: str, *, keep: str = "") -> str:
    r"""Text for a terminal or a log: control characters, bidirectional overrides and half characters are escaped.

    Args:
        text: anything.
        keep: control characters that stay, such as ``"\n"``.

    Examples:
        >>> printable("a cat\x1b[2J")
        'a cat\\x1b[2J'
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def quoted(value: object, *, most: int = 80) -> str:
    """A value as an error quotes it, of a long one the beginning and its length.

    Examples:
        >>> quoted("abc"), quoted("a" * 5000, most=5)
        ("'abc'", "'aaaa... (5,002 characters)")
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"a value with a number of too many digits, of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: half characters, as names of files that are not UTF-8 have, are escaped."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def is_text(value: object) -> bool:
    """Whether UTF-8 can hold all text in a value, lists and mappings looked through."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, Mapping):
        return all(is_text(name) and is_text(each) for name, each in value.items())
    return not isinstance(value, (list, tuple)) or all(map(is_text, value))


def is_line(value: object) -> bool:
    r"""Whether a value is one line of text: not empty, no control characters, and UTF-8 can hold it.

    Examples:
        >>> is_line("a cat"), is_line("a cat\x1b[2J"), is_line(3)
        (True, False, False)
    """
    return isinstance(value, str) and value != "" and is_text(value) and not _CONTROL.search(value)


def csv_cell(text: str) -> str:
    """Text for a CSV cell: what a spreadsheet would run as a formula gets an apostrophe before it.

    Numbers stay as they are. A formula behind apostrophes of its own gets one more, so that ``unguarded`` gives back
    any text.

    Examples:
        >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("a cat"), csv_cell("'=1+1")
        ("'=1+1", '-0.5', 'a cat', "''=1+1")
    """
    bare = text.lstrip("'")
    return f"'{text}" if _FORMULA.match(bare) and not _NUMBER.fullmatch(bare) else text


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", errors="backslashreplace").decode("ascii")


class _Lines:
    """A file whose lines end in a line feed alone."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> None:
        """One row."""
        self._file.write(line.removesuffix("\r\n") + "\n")


class CsvRows:
    """Writes rows to an open file; numbers stay numbers."""

    def __init__(self, file: IO[str], *, raw_csv: bool = False) -> None:
        """Args: file: opened with ``newline=""``; raw_csv: leave texts as they are."""
        # a carriage return within a text is put in quotes only where the end of a line has one, too
        self._table, self._raw = csv.writer(_Lines(file), lineterminator="\r\n"), raw_csv

    def write(self, cells: Iterable[object]) -> None:
        """One row."""
        self._table.writerow([csv_cell(cell) if isinstance(cell, str) and not self._raw else cell for cell in cells])


def unguarded(cell: str) -> str:
    """The text that ``csv_cell`` was given."""
    return cell[1:] if cell.startswith("'") and csv_cell(cell[1:]) == cell else cell
