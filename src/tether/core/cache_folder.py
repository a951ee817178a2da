"""Where prepared data, fitted parts and the indexes of searched folders are kept."""

from __future__ import annotations

import functools
import os
import stat
import tempfile
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """The folder of caches: ``$TETHER_CACHE``, else the user's cache folder, else one in the temporary folder.

    The last is for machines where the home cannot be written, such as containers and cron jobs; a warning names it
    once. ``TETHER_CACHE`` is taken as it is.
    """
    import platformdirs

    chosen = os.environ.get("TETHER_CACHE")
    return Path(chosen) if chosen else _writable(Path(platformdirs.user_cache_dir("tether")))


@functools.cache
def _writable(home: Path) -> Path:
    """``home`` if files can be made there, else a folder of this user's own below the temporary folder."""
    if _can_be_made(home):
        return home
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"tether-{user}"
    if not _private(folder):
        folder = Path(tempfile.mkdtemp(prefix="tether-"))
    warnings.warn(f"{home} cannot be written; caches go to {folder} (TETHER_CACHE=FOLDER places them)", stacklevel=4)
    return folder


def _can_be_made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private(folder: Path) -> bool:
    """Make a folder that only this user can write; False where somebody else was there first.

    Everybody can write in a temporary folder: without this, another user could lay weights there for us to load.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return ours and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 and _can_be_made(folder)
