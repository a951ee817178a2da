"""Words on the terminal: whatever comes from a table, a model or a file name is shown, never obeyed."""

from __future__ import annotations

import json
import re
from typing import Any

import typer

from tether.core.printable import printable


def say(text: object, *, err: bool = False, lines: bool = False) -> None:
    """Print one line; control characters are shown escaped.

    Args:
        text: what to print.
        err: on standard error, where a failure to print is no error.
        lines: the text is several lines.
    """
    try:
        typer.echo(printable(str(text), keep="\n" if lines else ""), err=err)
    except OSError as error:
        if not err:
            error.filename = "standard output"
            raise


def say_skipped(count: int, path: object) -> None:
    """How many rows were bad, if any, and the file that names them."""
    if count:
        said = "1 bad row was skipped" if count == 1 else f"{count} bad rows were skipped"
        say(f"{said}; {path} names {'it' if count == 1 else 'them'}", err=True)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which letters of every script stay readable and what a terminal may obey is escaped as JSON does."""
    text = json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    return re.sub(r"[^\n -~]", lambda found: found[0] if printable(found[0]) == found[0] else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}"  # none of them is beyond the first plane
