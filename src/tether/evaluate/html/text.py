"""Numbers as people read them, and Markdown of words from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def plain(value: float) -> str:
    """Two digits of a small number, three after the point, one from ten up."""
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """``74`` becomes ``1 min 14 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def rounded_duration(seconds: float) -> str:
    """``156`` becomes ``2.6 min``: short enough for a card."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table and the empty line after it."""
    lines = [f"| {' | '.join(map(escaped, head))} |", f"| {' | '.join('---' for _ in head)} |"]
    lines += [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows]
    return [*lines, ""]


def escaped(text: str) -> str:
    """One line in which no character means anything to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~!])", r"\\\1", " ".join(text.split()))
