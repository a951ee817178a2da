"""Where a result is to be written, looked at before the work and not after it."""

from __future__ import annotations

import os
from pathlib import Path

from tether.core.errors import InputError, reason_of


def check_file(path: Path, *, where: str) -> None:
    """See that a file can be written there, replacing one or as a new one; nothing is made.

    Args:
        path: of the file.
        where: option or argument, for the error.

    Raises:
        InputError: a folder, a device, a name that no file can have, or a place that cannot be written to.
    """
    try:
        os.fsencode(path)
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise InputError(f"{where}: expected the name of a file, got {str(path)!r}")
        near = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{where}: {path}: {reason_of(error).lower()}") from None
    except ValueError as error:
        raise InputError(f"{where}: {str(path)!r}: {error}") from None
    if not near.is_dir():
        raise InputError(f"{where}: {path}: {near} is a file, not a folder")
    if not os.access(near, os.W_OK):
        raise InputError(f"{where}: {path}: no permission to write in {near}")
