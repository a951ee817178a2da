"""JSON that tells when it was damaged: a SHA-256 of its values lies among them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tether.core.atomic_io import parse_json, read_text
from tether.core.errors import InputError

KEY = "sha256"
_LARGEST = 2**30


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """The values with the digest of what JSON makes of them."""
    return {**values, KEY: _digest(values)}


def read_sealed(path: Path) -> dict[str, Any]:
    """The values of a JSON file that ``sealed`` gave, the digest among them.

    Raises:
        InputError: no such file, no JSON, or values other than those that were sealed; it names the file.
    """
    values = parse_json(read_text(path, limit=_LARGEST), where=str(path))
    if not isinstance(values, dict) or values.get(KEY) != _digest({k: v for k, v in values.items() if k != KEY}):
        raise InputError(f"{path}: damaged or edited: its values do not have the digest that it names")
    return values


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
