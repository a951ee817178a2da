"""Whether a log of bad rows may be written anew: only what Tether wrote itself goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tether.core.atomic_io import atomic_path, parse_json
from tether.core.errors import InputError

_KEYS = {"source", "key", "error"}
_FIRST = 2**20  # bytes in which the first record ends


def check_log(path: Path) -> None:
    """Refuse a file that is no log of ``BadRows``, before a run removes it or writes on.

    Raises:
        InputError: a file of somebody else's, a folder, a link, a pipe or a device.

    Example:
        >>> from pathlib import Path
        >>> from tether.data.bad_rows_log import check_log
        >>> check_log(Path("of.no.run.bad_rows.jsonl"))
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_file() or not _is_log(path):
        raise InputError(
            f"{path}: is there already and is no log of bad rows that Tether wrote, which would go there; move it, or "
            "give --out another name"
        )


@contextlib.contextmanager
def kept_if_refused(path: Path | None) -> Iterator[None]:
    """Put the log of the run before back when the block, which may have begun a new one, refuses what is asked for."""
    old = path.read_bytes() if path is not None and path.is_file() else None
    try:
        yield
    except InputError:
        if path is not None and old is not None:
            with atomic_path(path) as temporary:
                temporary.write_bytes(old)
        raise


def _is_log(path: Path) -> bool:
    """By its first record; one that a crash cut off is known by its beginning."""
    with path.open("rb") as file:
        first = file.readline(_FIRST)
    try:
        found = parse_json(first.decode(errors="replace"), where=str(path))
    except InputError:
        return not first.strip() or first.startswith(b'{"source": ')
    return isinstance(found, dict) and found.keys() == _KEYS
