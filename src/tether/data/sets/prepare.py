"""Data sets prepared once: a folder in the user's cache, written atomically, however many prepare it at once."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from tether.core.atomic_io import flush
from tether.core.cache_folder import cache_dir

_ABANDONED = 24 * 3600.0  # seconds after which a half-built folder has no owner any more


def prepared(name: str, *, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of a prepared set, built if it is not there.

    ``build`` writes into a temporary folder beside the final one, which is flushed to disk and renamed when it
    returns. Several processes may prepare the same set: each builds its own, the first rename wins and the others
    are thrown away, so a reader never sees a part.

    Args:
        name: the set, one folder under ``<cache>/sets``.
        key: version and settings; another key is another folder.
        build: fills an empty folder; whatever it raises is passed on and nothing is left behind.

    Returns:
        ``<cache>/sets/<name>/<key>``, complete.
    """
    final = cache_dir() / "sets" / name / re.sub(r"[^\w.=+-]+", "_", key)
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final.parent)
    working = final.parent / f".building-{uuid4().hex}"
    working.mkdir()
    try:
        build(working)
        for file in working.rglob("*"):
            flush(file)
        flush(working)
        try:
            working.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        flush(final.parent)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return final


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-built long ago."""
    for stale in folder.glob(".building-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > _ABANDONED:
                shutil.rmtree(stale, ignore_errors=True)
