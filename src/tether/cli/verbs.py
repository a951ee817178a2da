"""Which verbs there are and what each does, read from the files beside this one without importing them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

SECTIONS: dict[str, tuple[str, ...]] = {
    "Data": ("curate", "audit", "mine", "label"),
    "Train and measure": ("train", "adapt", "eval", "report", "inspect"),
    "Use": (
        "embed",
        "index",
        "search",
        "classify",
        "segment",
        "detect",
        "rank",
        "quality",
        "caption",
        "read",
        "norms",
        "compress",
        "export",
        "push",
        "serve",
    ),
    "Make": ("draw", "edit", "generate"),
    "Papers": ("methods",),
}
"""The order of the help; a verb in none of them is listed under Others, so a new file is never hidden."""

OTHERS = "Others"
FOLDER = Path(__file__).parent
_COMMAND = re.compile(r'^def command\(.*?^    """(.*?)(?:"""|$)', re.MULTILINE | re.DOTALL)  # parsing all takes longer


def module_name(verb: str) -> str:
    """A verb's hyphens are underscores in the name of its file."""
    return verb.replace("-", "_")


def summary(path: Path) -> str | None:
    """First line of the docstring of the file's ``command``, or None when the file holds no command."""
    found = _COMMAND.search(path.read_text(encoding="utf-8"))
    return found and found[1]


def sections(folder: Path = FOLDER, order: Mapping[str, Sequence[str]] = SECTIONS) -> dict[str, dict[str, str]]:
    """Section to verb to summary, in the order of the help; only verbs whose file is there."""
    left = {}
    for path in sorted(folder.glob("*.py")):
        line = summary(path)
        if line is not None:
            left[path.stem.replace("_", "-")] = line
    found = {title: {verb: left.pop(verb) for verb in verbs if verb in left} for title, verbs in order.items()}
    found[OTHERS] = left
    return {title: verbs for title, verbs in found.items() if verbs}


def names(folder: Path = FOLDER, order: Mapping[str, Sequence[str]] = SECTIONS) -> list[str]:
    """Every verb, in the order of the help."""
    return [verb for verbs in sections(folder, order).values() for verb in verbs]
