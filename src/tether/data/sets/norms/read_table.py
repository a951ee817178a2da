"""CSV files of norms: UTF-8 with or without a byte-order mark, cells of any length, rows known by their number."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
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


def read_table(
    path: str | Path,
    *,
    need: Sequence[str | tuple[str, ...]],
    also: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
) -> tuple[list[dict[str, str]], list[int]]:
    """Rows by column name, and the row number of each as a spreadsheet counts: the header is row 1.

    Args:
        path: of the file.
        need: columns that must be there; of several names in a tuple one is enough. Where a name is not there as it
            stands, one in other upper and lower case is taken.
        also: columns that are read where they are there, the same way.
        columns: what the file calls some of these columns, by our name.

    Raises:
        InputError: no such file, not UTF-8, not a table, columns that are missing, a column that comes twice, names in
            ``columns`` that are none of ours or not in the file, or rows with more or fewer cells than the header, by
            number.
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
    choices = [(one,) if isinstance(one, str) else one for one in need]
    header = _ours(path, header, known=[name for names in choices for name in names] + list(also), columns=columns)
    if missing := [" or ".join(names) for names in choices if not any(name in header for name in names)]:
        what = f"a column {missing[0]}" if len(missing) == 1 else f"columns {', '.join(missing)}"
        raise InputError(f"{path}: expected {what}, got {', '.join(header)[:200]}")
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


def _ours(
    path: str | Path, header: Sequence[str], *, known: Sequence[str], columns: Mapping[str, str] | None
) -> list[str]:
    """The header in the names of ``known``: as ``columns`` says, as it stands, or in other upper and lower case."""
    columns = columns or {}
    if odd := [name for name in columns if name not in known]:
        raise InputError(f"columns: expected some of {', '.join(known)}, got {odd[0]!r:.80}")
    if len(set(columns.values())) < len(columns):
        raise InputError(f"columns: expected each column of the file once, got {', '.join(columns.values())[:200]}")
    if absent := [one for one in columns.values() if one not in header]:
        raise InputError(f"{path}: columns: no column {', '.join(absent)[:200]} in {', '.join(header)[:200]}")
    names = {theirs: ours for ours, theirs in columns.items()}
    here = set(header)
    names |= {name: name for name in known if name in here and name not in names and name not in columns}
    alike = {name.casefold(): name for name in known if name not in names.values()}
    # A column that has a name of ours, which ``columns`` gives to another, must not come twice.
    return [
        names[one] if one in names else f"{one} (not read)" if one in columns else alike.get(one.casefold(), one)
        for one in header
    ]
