"""CSV files of norms: UTF-8 with or without a byte-order mark, cells of any length, rows known by their number."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tether.core.atomic_io import decode_text, read_bytes
from tether.core.errors import InputError
from tether.data.sets.norms.table import rows_said

LARGEST = 2**29
"""Bytes of a file; NormBank's has some 60 million."""
_CELL = 2**24
_ROWS = 5_000_000
_WIDE = str.maketrans("：｜（）［］＇", ":|()[]'")
"""Full-width marks as Chinese and Japanese keyboards write them; only where a format gives the mark a meaning."""
HEADER = 1


def narrow_marks(text: str) -> str:
    """Full-width colons, bars, brackets and apostrophes as the half-width ones that a format is written in.

    Examples:
        >>> narrow_marks("（李：早）")
        '(李:早)'
    """
    return text.translate(_WIDE)


def read_table(path: str | Path, *, need: Sequence[str | tuple[str, ...]]) -> tuple[list[dict[str, str]], list[int]]:
    """Rows by column name, and the row number of each as a spreadsheet counts: the header is row 1.

    Args:
        path: of the file.
        need: columns that must be there; of several names in a tuple one is enough.

    Raises:
        InputError: no such file, not UTF-8, not a table, a column that is missing or comes twice, or rows with more or
            fewer cells than the header, by number.
    """
    text = decode_text(read_bytes(path, limit=LARGEST), where=str(path))
    csv.field_size_limit(_CELL)
    try:
        lines = list(islice(csv.reader(io.StringIO(text, newline="")), _ROWS + 1))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV table: {error}") from error
    if len(lines) > _ROWS:
        raise InputError(f"{path}: expected fewer than {_ROWS:,} rows")
    if not lines:
        raise InputError(f"{path}: empty, expected a header")
    header = [name.strip() for name in lines[0]]
    for one in need:
        names = (one,) if isinstance(one, str) else one
        if not any(name in header for name in names):
            raise InputError(f"{path}: expected a column {' or '.join(names)}, got {', '.join(header)[:200]}")
    if twice := [name for name, many in Counter(header).items() if many > 1]:
        raise InputError(f"{path}: column {twice[0]!r} comes twice")
    kept = [(number, line) for number, line in enumerate(lines[1:], start=HEADER + 1) if line]
    if odd := [number for number, line in kept if len(line) != len(header)]:
        raise InputError(
            f"{path}: expected {len(header)} cells as in the header, got more or fewer in {rows_said(odd)}"
        )
    if not kept:
        raise InputError(f"{path}: a header without rows")
    return [dict(zip(header, line, strict=True)) for _, line in kept], [number for number, _ in kept]
