"""Results are kept out of the folder that they are made from."""

from __future__ import annotations

from collections.abc import Mapping
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


def check_begun_elsewhere(out: str | Path | None, given: Mapping[str, object]) -> None:
    """Refuse a result in place of what it begins with: once that is gone, an interrupted run could not go on.

    Args:
        out: folder of the result.
        given: by option or setting, what may be a folder that is read.
    """
    if out is None:
        return
    for where, value in given.items():
        there = isinstance(value, (str, Path)) and local(value).is_dir()
        if there and local(value).resolve().is_relative_to(local(out).resolve()):
            raise InputError(f"--out: {out} would take the place of {where}, {value}; give another name")
