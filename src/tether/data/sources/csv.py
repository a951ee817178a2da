"""CSV and TSV files of image paths and captions, as open_clip reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from tether.core.errors import InputError
from tether.core.printable import encodable, is_text
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.image_file import image_problem
from tether.data.manifests import shard_files, sizes_of
from tether.data.paths import fingerprint, is_url, labels, open_binary
from tether.data.sources.columns import (
    KEY,
    Reach,
    bad_row,
    choose,
    choose_captions,
    choose_image,
    folder_of,
    make_row,
    numbers_of,
)

_LONGEST = 1 << 24
"""Characters of a row, at most."""
_MOST_COLUMNS = 10_000
_SEPARATORS = ("\t", ",", ";")
_Line = tuple[str, str, list[str], dict[str, object], str]  # key, image, captions, meta, root
_Bad = tuple[str, str]  # key, reason


class CsvSource(IndexedSource):
    """Rows of CSV or TSV files with a header; lines that name the same image become one row with several captions."""

    block_rows = 1024

    @checked
    def __init__(
        self,
        path: str,
        *,
        image: str | None = None,
        caption: tuple[str, ...] | str = (),
        key: str | None = None,
        separator: str = "auto",
        root: str | None = None,
        group: Literal["image", "none"] = "image",
        remote_images: bool = False,
    ) -> None:
        """Read the headers; the lines are read when they are first asked for, and then kept.

        Args:
            path: a file, a folder, a pattern, a manifest or a URL.
            image: column of paths (open_clip's ``--csv-img-key``); None guesses (``filepath``, ``image``, ...).
            caption: columns of captions (``--csv-caption-key``); empty guesses one (``title``, ``caption``, ...).
            key: column of unique keys; None takes one called ``key``, else the image's path.
            separator: between columns; ``auto`` takes the tab, comma or semicolon of the header.
            root: folder that paths are relative to and may not leave; None takes the file's own folder.
            group: ``image`` joins the lines of one image; ``none`` keeps each line as a row, keyed by its number.
            remote_images: whether the table may name URLs of public hosts.

        Raises:
            InputError: no such file, no header, no rows, or a column that is not there.
        """
        self.name = encodable(str(path))
        self._paths, said = shard_files(path, ending=(".csv", ".tsv"))
        self._separator, self._root, self._group, self._remote = separator, root, group, remote_images
        settings = (image, caption, key, separator, root, group, *([True] if remote_images else []))
        self.version = fingerprint(self._paths, settings=settings, sizes=sizes_of(said))
        self._headers: list[list[str]] = []
        for each in self._paths:
            header = next(self._lines(each), (0, []))[1]
            if not header:
                raise InputError(f"{each}: the file is empty; expected a header line with the columns' names")
            if len(header) > _MOST_COLUMNS:
                raise InputError(f"{each}: {len(header)} columns; at most {_MOST_COLUMNS} are read")
            self._headers.append(header)
            self._image = choose_image(image, known=header, where=each, spec=f"csv:path={each},")
            self._captions = choose_captions(caption, known=header, where=each)
            self._key = choose(key, guesses=KEY, known=header, what="key", where=each)

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows)

    def row(self, index: int) -> Row:
        """One row."""
        row = self._rows[index]
        if len(row) == 2:
            return bad_row(*row)
        key, image, captions, meta, root = row
        return make_row(key, image=image, captions=captions, meta=meta, reach=Reach((root,), remote=self._remote))

    @cached_property
    def numbers(self) -> dict[str, type[int] | type[float]]:
        """Columns of ``meta`` whose every text is a number, see ``columns.numbers_of``."""
        return numbers_of(row[3] for row in self._rows if len(row) == 5)

    @cached_property
    def _rows(self) -> list[_Line | _Bad]:
        rows: list[_Line | _Bad] = []
        for path, header, label in zip(self._paths, self._headers, labels(self._paths), strict=True):
            rows.extend(self._rows_of(path, header, label))
        if self._group == "image":
            rows = _joined(rows)
        if not rows:
            raise InputError(f"{self.name}: the data set is empty (a header and no rows)")
        return rows

    def _rows_of(self, path: str, header: list[str], label: str) -> Iterator[_Line | _Bad]:
        lines = self._lines(path)
        next(lines)
        root = None if self._root is None else folder_of(path, root=self._root)
        by_name = {name: at for at, name in enumerate(header)}
        used = {self._image, self._key, *self._captions}
        for number, line in lines:
            place = f"{label}:{number}"
            if not line:
                continue
            if len(line) != len(header):
                yield place, f"line {number} has {len(line)} columns, the header has {len(header)}"
                continue
            image = line[by_name[self._image]] if self._image else ""
            if root is None:
                root = _root_of(path, first=image)
            if not is_text(image):
                yield place, "the image's path is not UTF-8"
                continue
            key = line[by_name[self._key]] if self._key else image if self._group == "image" else place
            meta: dict[str, object] = {name: line[at] for name, at in by_name.items() if name not in used}
            captions = [line[by_name[name]] for name in self._captions]
            yield key or place, image.strip() and image, captions, meta, root

    def _lines(self, path: str) -> Iterator[tuple[int, list[str]]]:
        """Line numbers and columns; bytes that are not UTF-8 stay marked in the text."""
        csv.field_size_limit(_LONGEST)
        with open_binary(path) as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
            first = text.readline(_LONGEST + 1)
            if "\0" in first:
                raise InputError(f"{path}: not a table in UTF-8: NUL bytes in its header, as in UTF-16 or binary files")
            separator = self._separator
            if separator == "auto":
                separator = next((mark for mark in _SEPARATORS if mark in first), ",")
            left = [_LONGEST]
            reader = csv.reader(_bounded(first, text, left), delimiter=separator)
            try:
                for line in reader:
                    left[0] = _LONGEST
                    yield reader.line_num, line
            except (csv.Error, OSError) as error:
                raise InputError(f"{path}: line {reader.line_num}: {error}") from error


def _bounded(first: str, rest: io.TextIOWrapper, left: list[int]) -> Iterator[str]:
    """The lines, as long as one row of them has no more characters than ``left`` says."""
    line = first
    while line:
        left[0] -= len(line)
        if left[0] < 0:
            raise csv.Error(f"a row of more than {_LONGEST} characters")
        yield line
        line = rest.readline(_LONGEST + 1)


def _root_of(path: str, *, first: str) -> str:
    """The folder that relative paths start from: the table's own."""
    own = folder_of(path, root=None)
    if first and not is_url(own) and image_problem(Path(own) / first) and image_problem(Path(first)) is None:
        raise InputError(f"{path}: {first!r} is not beside the table but in the working directory; say root=. for that")
    return own


def _joined(rows: list[_Line | _Bad]) -> list[_Line | _Bad]:
    """Rows of the same image as one, where the first of them stood."""
    found: dict[tuple[str, str, str], _Line] = {}
    out: list[_Line | _Bad] = []
    for row in rows:
        if len(row) == 5 and row[1]:
            first = found.get((row[0], row[1], row[4]))
            if first is not None:
                first[2].extend(row[2])
                continue
            found[row[0], row[1], row[4]] = row
        out.append(row)
    return out
