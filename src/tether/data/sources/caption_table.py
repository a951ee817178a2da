"""Tables of captions beside images, read line by line."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tether.core.atomic_io import parse_json
from tether.core.errors import InputError
from tether.data.paths import is_image_file, open_binary

_LONGEST_LINE = 1 << 22
"""Bytes of a line of JSON, at most."""
_LONGEST_ROW = 1 << 24
"""Characters of a row of a CSV, at most."""
_MOST_LINES = 10_000_000
_MOST_COLUMNS = 10_000
_MOST_AGAIN = 1 << 27
"""Characters that are read a second time, at most, where a quote is not closed."""
_SEPARATORS = ("\t", "|", ",", ";")
_NO_HEADER = ["image", "caption"]
"""Columns of a table without a header, as Flickr8k's ``name.jpg#0<tab>caption``."""

Line = tuple[int, dict[str, object] | str]
"""The number of a line with its columns, or with what is wrong with it."""


class CaptionTable:
    """A ``.jsonl`` file of objects, or a CSV whose separator the first line tells.

    Attributes:
        columns: names of all columns; of a ``.jsonl`` file, of all its lines.
    """

    def __init__(self, path: str, *, name: str) -> None:
        """Read the names of the columns.

        Args:
            path: of the file.
            name: what errors call it.

        Raises:
            InputError: more than 10 million lines or 10,000 columns, or a file that cannot be read.
        """
        self._path, self._name = path, name
        self._is_json = path.lower().endswith(".jsonl")
        self.columns: list[str] = []
        if self._is_json:
            names: dict[str, None] = {}
            for _, line in self.lines():
                if isinstance(line, dict):
                    names.update(dict.fromkeys(line))
                    self._check_columns(len(names))
            self.columns = list(names)
        else:
            with self._open() as binary:
                self.columns = self._opened(binary)[1]

    def lines(self) -> Iterator[Line]:
        """All lines that are not empty."""
        with self._open() as binary:
            for count, (number, line) in enumerate(self._objects(binary) if self._is_json else self._rows(binary)):
                if count == _MOST_LINES:
                    raise InputError(f"{self._name}: more than {_MOST_LINES:,} lines")
                yield number, line

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        try:
            with open_binary(self._path) as binary:
                yield binary
        except OSError as error:
            raise InputError(f"{self._name}: cannot read it: {error}") from error

    def _objects(self, binary: IO[bytes]) -> Iterator[Line]:
        number = 0
        while data := binary.readline(_LONGEST_LINE + 1):
            number += 1
            if len(data) > _LONGEST_LINE:
                _skip_line(binary, data)
                yield number, f"more than {_LONGEST_LINE} bytes"
            elif data.strip():
                yield number, _object(data)

    def _opened(self, binary: IO[bytes]) -> tuple[io.TextIOWrapper, list[str], str, str]:
        """The text after the header, the columns, the separator, and the first line where it is no header."""
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
        first = text.readline(_LONGEST_ROW + 1)
        mark = next((mark for mark in _SEPARATORS if mark in first), ",")
        if not first:
            return text, [], mark, ""
        if is_image_file(_plain(first.split(mark)[0])):
            return text, _NO_HEADER, mark, first
        csv.field_size_limit(_LONGEST_ROW)
        try:
            names = [name.strip() for name in next(csv.reader([first], delimiter=mark), [])]
        except csv.Error as error:
            raise InputError(f"{self._name}: line 1: {error}") from None
        self._check_columns(len(names))
        return text, names, mark, ""

    def _rows(self, binary: IO[bytes]) -> Iterator[Line]:
        text, names, mark, first = self._opened(binary)
        for number, cells in _Rows(text, [first] if first else [], mark=mark, width=len(names)):
            if isinstance(cells, str):
                yield number + (not first), cells
                continue
            line: dict[str, object] = dict(zip(names, cells, strict=True))
            yield number + (not first), {**line, "image": _plain(cells[0])} if first else line

    def _check_columns(self, count: int) -> None:
        if count > _MOST_COLUMNS:
            raise InputError(f"{self._name}: more than {_MOST_COLUMNS:,} columns")


class _UnfinishedError(csv.Error):
    """A row that no quote ends."""


class _Rows:
    """The rows of a CSV by the number of their line.

    A row of several lines that is not whole, because a quote is not closed, is one bad line, and what follows that
    line is read as if it were not there.
    """

    def __init__(self, text: IO[str], first: list[str], *, mark: str, width: int) -> None:
        self._text, self._waiting, self._mark, self._width = text, deque(first), mark, width
        self._taken: list[str] = []
        self._left, self._length = _MOST_AGAIN, 0

    def __iter__(self) -> Iterator[tuple[int, list[str] | str]]:
        number = 0
        csv.field_size_limit(_LONGEST_ROW)
        reader = self._reader()
        while True:
            self._taken = []
            cells: list[str] = []
            wrong = ""
            try:
                cells = next(reader, [])
                if cells and len(cells) != self._width:
                    wrong = "another number of columns than the header"
            except csv.Error as error:
                wrong = str(error)
                reader = self._reader()
                if len(self._taken) == 1 and not isinstance(error, _UnfinishedError):
                    cells = next(csv.reader(self._taken, delimiter=self._mark), [])
                    wrong = "" if len(cells) == self._width else wrong
            if not self._taken:
                return
            if wrong and len(self._taken) > 1 and self._put_back():
                number += 1
                wrong += "; is a quote of this line not closed?"
            else:
                number += len(self._taken)
            if cells or wrong:
                yield number, wrong or cells

    def _reader(self) -> Iterator[list[str]]:
        """Strict, so that a quote that a later line's opening one would close is noticed."""
        return csv.reader(self._next_lines(), delimiter=self._mark, strict=True)

    def _next_lines(self) -> Iterator[str]:
        """The lines, as long as those taken for one row are not too many."""
        while line := self._waiting.popleft() if self._waiting else self._text.readline(_LONGEST_ROW + 1):
            if len(line) > _LONGEST_ROW and not line.endswith("\n"):
                _skip_line(self._text, line)
                line += "\n"
            self._length = len(line) + (self._length if self._taken else 0)
            self._taken.append(line)
            if self._length > _LONGEST_ROW:
                raise _UnfinishedError(f"a row of more than {_LONGEST_ROW:,} characters")
            yield line
        if self._taken:
            raise _UnfinishedError("a quote is not closed")

    def _put_back(self) -> bool:
        """Have all lines but the first read again, unless too many were already."""
        self._left -= sum(map(len, self._taken))
        if self._left < 0:
            return False
        self._waiting.extendleft(reversed(self._taken[1:]))
        return True


def _skip_line(file: IO[bytes] | IO[str], read: bytes | str) -> None:
    """Read on to the end of a line of which a part was read."""
    while read and read[-1:] not in ("\n", "\r", b"\n"):
        read = file.readline(_LONGEST_LINE)


def _plain(name: str) -> str:
    """The file in ``name.jpg#0``, where the number counts the captions of one image."""
    return re.sub(r"#\d+$", "", name.strip().strip('"'))


def _object(line: bytes) -> dict[str, object] | str:
    try:
        value = parse_json(line, where="not JSON")
    except InputError as error:
        return str(error)
    return value if isinstance(value, dict) else f"expected an object, got {type(value).__name__}"
