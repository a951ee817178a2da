"""metrics.jsonl: one JSON object a line, cut back to the step a run resumes from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.core.atomic_io import open_append, parse_json, read_text, write_text
from tether.core.errors import InputError, WriteError
from tether.core.shape import check, finite


class Logbook:
    """Appends records with a ``step``; each line reaches the file before the next step begins.

    Attributes:
        kept: the records that were there, of steps before.
    """

    def __init__(self, path: Path, *, steps_done: int) -> None:
        """Open ``path``, dropping what an interrupted run logged from step ``steps_done`` on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.kept: list[dict[str, Any]] = []
        if path.exists():
            self.kept = [line for line in read_metrics(path) if line["step"] < steps_done]
            write_text(path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._file = open_append(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; numbers that JSON cannot hold become null.

        Raises:
            WriteError: for instance a full disk; the records before stand.
        """
        try:
            self._file.write(json.dumps(finite(record), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise WriteError(Path(self._file.name), error, safe="the records before stand") from error

    def close(self) -> None:
        """Close the file; what could not be written was told by ``write``."""
        with contextlib.suppress(OSError):
            self._file.close()


def read_metrics(path: Path, *, limit: int = 2**31) -> list[dict[str, Any]]:
    """All records of a metrics file; a last line cut off by a kill is left out.

    Args:
        path: of the file.
        limit: most bytes that are read.

    Raises:
        InputError: another line that is no record; it names the file and the line.
    """
    records = []
    lines = read_text(path, limit=limit).split("\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            record = parse_json(line, where=where)
        except InputError:
            if number == len(lines):
                break
            raise
        check(record, {"step": int}, where=where)
        records.append(record)
    return records
