"""What a ``method.toml`` should say: a person's words as they are, the verdict and a line for each part as measured."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tether_lab.lab.part_reference import first_sentence

_WIDTH = 120
_WORDS = ("title", "year", "authors", "venue", "arxiv", "code", "gives", "needs", "guide", "verdict")


def brought_up_to_date(text: str, *, verdict: str) -> str:
    """A ``method.toml`` with the verdict, and with the first sentence of each part's docstring behind its name.

    Args:
        text: Content of the file.
        verdict: Verdict of the stored result.

    Raises:
        InputError: a part that is not there.
    """
    values = tomllib.loads(text) | {"verdict": verdict}
    lines = [_line(name, values[name]) for name in _WORDS if name in values]
    lines += ["", "[parts]", *(_line(_quoted(part), first_sentence(part)) for part in values["parts"])]
    for kind, parts in values.get("register", {}).items():
        lines += ["", f"[register.{kind}]", *(_line(name, target) for name, target in parts.items())]
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any) -> str:
    if isinstance(value, Mapping) or not isinstance(value, Sequence) or isinstance(value, str):
        return f"{name} = {_quoted(value)}"
    line = f"{name} = [{', '.join(map(_quoted, value))}]"
    return line if len(line) <= _WIDTH else "\n".join([f"{name} = [", *(f"  {_quoted(one)}," for one in value), "]"])


def _quoted(value: str | int) -> str:
    """A TOML value: a basic string is written as JSON writes one."""
    return json.dumps(value, ensure_ascii=False)
