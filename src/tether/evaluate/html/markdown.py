"""Markdown of words from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table and the empty line after it."""
    lines = [f"| {' | '.join(map(plain, head))} |", f"| {' | '.join('---' for _ in head)} |"]
    lines += [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
    return [*lines, ""]


def plain(text: str) -> str:
    """One line in which no character means anything to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~!])", r"\\\1", " ".join(text.split()))
