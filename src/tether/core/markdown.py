"""Small pieces of Markdown that every generated page is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"\\.|(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)|[<&`]", re.DOTALL)
_ENTITIES = {"<": "&lt;", "&": "&amp;", "`": "&#96;"}


def escaped(text: str) -> str:
    """Text without HTML: ``<`` and ``&`` as entities, save in code, where Markdown shows them as they are."""
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], found[0]), text)


def cell(text: str) -> str:
    """Text as one table cell: on one line, without HTML, bars escaped."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every row has as many cells as the head."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def bullets(items: Iterable[str]) -> str:
    """A list, one item a line."""
    return "\n".join(f"- {item}" for item in items)


def page(*parts: str) -> str:
    """Blocks with an empty line between; empty blocks are left out; ends with one newline."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def number(value: float) -> str:
    """Four significant digits, as people write them."""
    return f"{value:.4g}"


def sentence(text: str) -> str:
    """Text with a capital at its start and a full stop at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
