"""The folder beside a file that is being learnt: what was done, so that the same call goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_json, write_text
from tether.core.errors import InputError

ABOUT_FILE = "about.json"


def claim(place: Path, facts: Mapping[str, Any]) -> None:
    """The folder of what was done: a new one, or one of the very same learning.

    Raises:
        InputError: it is of another; it names what differs.
    """
    known = json.loads(json.dumps(facts))
    if (place / ABOUT_FILE).is_file():
        found = read_json(place / ABOUT_FILE)
        before = found if isinstance(found, dict) else {}
        for name, value in known.items():
            if before.get(name) != value:
                raise InputError(
                    f"{place}: learnt with {name} {before.get(name)!r:.200}, asked for {value!r:.200}; ask for the "
                    "same to go on, or remove the folder to begin again"
                )
        return
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / ABOUT_FILE, json.dumps(known, indent=2))
