"""CSV as Tether writes it: what a spreadsheet would run as a formula is guarded, unless raw cells are asked for."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import IO

from tether.core.printable import csv_cell


class CsvRows:
    """Writes rows to an open file; numbers stay numbers."""

    def __init__(self, file: IO[str], *, raw_csv: bool = False) -> None:
        """Args: file: opened with ``newline=""``; raw_csv: leave texts as they are."""
        self._table, self._raw = csv.writer(file, lineterminator="\n"), raw_csv

    def write(self, cells: Iterable[object]) -> None:
        """One row."""
        self._table.writerow([csv_cell(cell) if isinstance(cell, str) and not self._raw else cell for cell in cells])


def unguarded(cell: str) -> str:
    """The text that ``csv_cell`` was given."""
    return cell[1:] if cell.startswith("'") and csv_cell(cell[1:]) == cell else cell
