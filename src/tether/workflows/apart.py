"""Results are kept out of the folder that they are made from."""

from __future__ import annotations

from pathlib import Path

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.workflows.models import Data


def check_apart(out: str | Path | None, source: Data | None, *, holds: str = "images") -> None:
    """Refuse a folder of results among its inputs, where the next run would read results as such."""
    if out is None or not isinstance(source, (str, Path)) or not local(source).is_dir():
        return
    if local(out).resolve().is_relative_to(local(source).resolve()):
        raise InputError(f"--out: {out} is in the folder of the {holds}; give another")
