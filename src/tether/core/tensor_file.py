"""A safetensors file whose bytes depend on nothing but its contents."""

from __future__ import annotations

import json
from pathlib import Path

_LENGTH = 8
"""Bytes of the header's length, which stands first."""


def sort_metadata(path: Path) -> None:
    """Sort what a file that was just written says of itself; the library's order differs from save to save."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(length))
        header |= {"__metadata__": dict(sorted(header.get("__metadata__", {}).items()))}
        written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(written) == length:  # a text has several spellings in JSON; of another length, it would move the tensors
            file.seek(_LENGTH)
            file.write(written)
