"""The guide's tables and advice, written from the stored result between its markers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.papers.stability import words
from tether.papers.stability.charts import pairs
from tether.papers.stability.figure import figure
from tether.papers.stability.runs import BenchRun

GUIDE, RESULT = "docs/guides/stability.md", "results/stability.json"
COMMAND = "tether bench stability --guide"


def filled(text: str, found: Mapping[str, Any], *, where: str = GUIDE) -> str:
    """The guide with everything between its markers replaced.

    A block stands between ``<!-- stability: TITLE -->`` and ``<!-- /stability -->``; the titles are those of
    ``words.blocks``.

    Raises:
        InputError: a title that there is no block for, a block of the result that the guide does not show, or a marker
            without its end.
    """
    blocks = words.blocks(found)
    shown: list[str] = []

    def fill(match: re.Match[str]) -> str:
        title = match[1].strip()
        if title not in blocks:
            raise InputError(f"{where}: no block is called {title!r}; known: {', '.join(blocks)}")
        shown.append(title)
        return f"<!-- stability: {title} -->\n\n{blocks[title]}\n\n<!-- /stability -->"

    new = re.sub(r"<!-- stability: ([^>]*?) -->.*?<!-- /stability -->", fill, text, flags=re.DOTALL)
    if new.count("<!-- stability:") != len(shown):
        raise InputError(f"{where}: a block has no <!-- /stability --> after it")
    if left := [title for title in blocks if title not in shown]:
        raise InputError(f"{where}: these blocks are missing: {', '.join(left)}")
    return new


def figure_path(root: Path, model: str) -> Path:
    """Where the guide's picture of a model's runs lies."""
    return root / "docs" / "guides" / f"stability-{model}.svg"


def write(root: Path, found: Mapping[str, Any]) -> None:
    """Fill the guide of a checkout."""
    path = root / GUIDE
    write_text(path, filled(path.read_text(encoding="utf-8"), found, where=str(path)))


def draw(root: Path, found: Mapping[str, Any], outcomes: Sequence[BenchRun]) -> None:
    """Draw the guide's pictures, one for each model."""
    drawn = pairs(outcomes, kinds={name: guard["kind"] for name, guard in found["guards"].items()})
    for model in found["models"]:
        write_text(figure_path(root, model), figure([pair for pair in drawn if pair.model == model]))
