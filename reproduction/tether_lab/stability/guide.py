"""The guide's tables and advice, written from the stored result between its markers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.workflows.clipper_comparison.sections import figure
from tether_lab.stability.bench_curves import bench_curves
from tether_lab.stability.bench_report import bench_report, scale_of
from tether_lab.stability.result import kinds_of
from tether_lab.stability.runs import BenchRun

GUIDE, RESULT = "docs/guides/stability.md", "reproduction/results/stability.json"
COMMAND = "tether-lab bench stability --guide"


def blocks(found: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts by title, in the order of the guide."""
    written = {section.title: section.markdown() for section in bench_report(found).sections}
    written["What was run"] = f"{scale_of(found)}\n\n{written['What was run']}"
    return {title: text for title, text in written.items() if text}


def filled(text: str, found: Mapping[str, Any], *, where: str = GUIDE) -> str:
    """The guide with everything between its markers replaced.

    A block stands between ``<!-- stability: TITLE -->`` and ``<!-- /stability -->``; the titles are those of
    ``blocks``.

    Raises:
        InputError: a title that there is no block for, a block of the result that the guide does not show, or a marker
            without its end.
    """
    known = blocks(found)
    shown: list[str] = []

    def fill(match: re.Match[str]) -> str:
        title = match[1].strip()
        if title not in known:
            raise InputError(f"{where}: no block is called {title!r}; known: {', '.join(known)}")
        shown.append(title)
        return f"<!-- stability: {title} -->\n\n{known[title]}\n\n<!-- /stability -->"

    new = re.sub(r"<!-- stability: ([^>]*?) -->.*?<!-- /stability -->", fill, text, flags=re.DOTALL)
    if new.count("<!-- stability:") != len(shown):
        raise InputError(f"{where}: a block has no <!-- /stability --> after it")
    if left := [title for title in known if title not in shown]:
        raise InputError(f"{where}: these blocks are missing: {', '.join(left)}")
    return new


def figure_path(root: Path, model: str) -> Path:
    """Where the guide's figure of a model's runs lies."""
    return root / "docs" / "guides" / f"stability-{model}.svg"


def write(root: Path, found: Mapping[str, Any], outcomes: Sequence[BenchRun] = ()) -> None:
    """Fill the guide of a checkout, and draw its figures where there are runs to draw."""
    path = root / GUIDE
    write_text(path, filled(path.read_text(encoding="utf-8"), found, where=str(path)))
    drawn = bench_curves(outcomes, kinds=kinds_of(found))
    for model in dict.fromkeys(one.group for one in drawn):
        write_text(figure_path(root, model), figure([one for one in drawn if one.group == model]))
