"""What the report of an adaptation says of its own result, told again where the result is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tether.core.atomic_io import local, read_json
from tether.core.errors import InputError
from tether.evaluate.adaptation.report import FORMAT, JSON_FILE

_LONGEST = 300
"""Letters of a verdict, at most."""


def verdict_of(head: Any) -> str:
    """One sentence: what was found when it was made; empty for what no ``tether adapt`` has left in a folder.

    Args:
        head: a folder, or anything else.

    Example:
        >>> from tether.workflows.verdicts import verdict_of
        >>> verdict_of(None)
        ''
    """
    if not isinstance(head, (str, Path)):
        return ""
    path = local(head) / JSON_FILE
    try:
        said = read_json(path) if path.is_file() else None
    except (InputError, OSError):
        return ""
    verdict = said.get("verdict") if isinstance(said, dict) and said.get("format") == FORMAT else None
    return f"{head} by its own report: {verdict[:_LONGEST]}" if isinstance(verdict, str) and verdict else ""
