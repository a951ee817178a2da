"""Rows that cannot be used: counted, logged to ``bad_rows.jsonl``, and never silently lost."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from tether.core.atomic_io import open_append, parse_json, read_bytes
from tether.core.errors import InputError, WriteError
from tether.core.printable import encodable

_log = logging.getLogger("tether.data")

FIRST = 1000
"""How many rows are looked at before a source is trusted."""
MOST_BAD = 0.5
"""Fraction of the first rows that may be bad; above it something is wrong with the source, not with its rows."""
NO_CAPTION = ("no caption", "every caption is empty")
"""What is wrong with a row whose image may be fine."""
_LEAST = 32
_LARGEST = 2**30  # bytes of a log


class BadRows:
    """The account of rows that were skipped.

    Attributes:
        seen: rows that were tried.
        latest: what was wrong with the last bad row.
    """

    def __init__(self, source: str, *, path: Path | None = None, strict: bool = False) -> None:
        """Open the account.

        Args:
            source: name of the source, for messages.
            path: JSON-lines log; it is appended to, and keys that it holds are not logged again.
            strict: raise at the first bad row instead.
        """
        self.source, self.path, self.strict = encodable(source), path, strict
        self.seen = 0
        self.latest = ""
        self._refused = 0  # bad among the rows seen, repeats included
        self._keys: set[str] = set(named_in(path)) if path else set()
        self._lock = threading.Lock()

    @classmethod
    def anew(cls, source: str, *, path: Path | None, strict: bool = False) -> BadRows:
        """An account whose log, if there is one, is written anew."""
        if path is not None:
            path.unlink(missing_ok=True)
        return cls(source, path=path, strict=strict)

    @property
    def count(self) -> int:
        """Distinct keys that were skipped, by this process, those already in the log included."""
        return len(self._keys)

    def nothing_good(self) -> str:
        """Why there is no good row, for a message."""
        if not self.latest:
            return "the data set is empty"
        return f"all {self.seen} rows are bad, the latest: {self.latest}{self._advice(self.latest)}"

    def tried(self, rows: int) -> None:
        """Count rows that were looked at, bad ones included."""
        with self._lock:
            self.seen += rows

    def add(self, key: str, reason: str) -> None:
        """Log one bad row.

        Raises:
            InputError: under ``strict``, or when more than half of the first rows are bad.
            WriteError: the log could not be written.
        """
        key = encodable(key)
        reason = encodable(reason).removeprefix(f"{key}: ")
        if self.strict:
            raise InputError(f"{self.source}: bad row {key!r}: {reason}")
        with self._lock:
            self._refused += 1
            self.latest = reason
            new = key not in self._keys
            if new:
                self._keys.add(key)
                if self.path:
                    self._write(self.path, {"source": self.source, "key": key, "error": reason})
            count = len(self._keys)
        if new and (count & (count - 1)) == 0:  # the 1st, 2nd, 4th, ... so that a log stays readable
            where = f"; all are named in {self.path}" if self.path else ""
            _log.warning("%s: %d bad rows skipped so far, the latest %r: %s%s", self.source, count, key, reason, where)
        self.check(reason)

    @staticmethod
    def _write(path: Path, record: dict[str, str]) -> None:
        try:
            with open_append(path) as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise WriteError(path, error, safe="the rows that it named before stay named") from error

    def check(self, reason: str = "") -> None:
        """Stop when most of the first rows are bad."""
        if _LEAST <= self.seen <= FIRST and self._refused > MOST_BAD * self.seen:
            raise InputError(
                f"{self.source}: {self._refused} of the first {self.seen} rows are bad, which is more than "
                f"{MOST_BAD:.0%}; the latest: {reason}{self._advice(reason)}"
            )

    def _advice(self, reason: str) -> str:
        """Where captions may be, if a row had none."""
        from tether.data.sources.advice import caption_advice

        return caption_advice(self.source) if reason in NO_CAPTION else ""


def named_in(path: Path) -> list[str]:
    """The keys in a log of bad rows; a last line that a crash cut off holds none, and is ended."""
    if not path.exists():
        return []
    keys = []
    text = read_bytes(path, limit=_LARGEST).decode(errors="replace")
    if text and not text.endswith("\n"):  # a crash cut the last line; what follows must begin on its own
        with open_append(path) as file:
            file.write("\n")
    for line in text.split("\n"):  # not splitlines: a key may hold one of the rarer breaks
        try:
            keys.append(str(parse_json(line, where=str(path))["key"]))
        except (InputError, KeyError, TypeError, IndexError):  # a line cut off by a crash
            continue
    return keys
