"""What a ``method.toml`` should say: a person's words, and what was measured: claim, verdicts, a line for each part."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tether_lab.lab.part_reference import first_sentence
from tether_lab.lab.results import PaperStatus

_WIDTH = 120
_WORDS = (
    "title",
    "year",
    "authors",
    "venue",
    "arxiv",
    "code",
    "gives",
    "needs",
    "guide",
    "claim",
    "verdict",
    "on_photographs",
)


def brought_up_to_date(text: str, row: PaperStatus) -> str:
    """A ``method.toml`` with claim and verdicts, and with the first sentence of each part's docstring behind its name.

    Args:
        text: Content of the file.
        row: Paper with its stored result and its check on photographs.

    Raises:
        InputError: a part that is not there.
    """
    values = tomllib.loads(text) | {"claim": row.card.claim.says, "verdict": row.verdict}
    values.pop("on_photographs", None)
    values |= {"on_photographs": row.photos["verdict"]} if row.photos else {}
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
