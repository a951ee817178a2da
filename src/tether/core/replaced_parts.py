"""A folder of files that belong together: the old ones or the new ones, and never a mixture that opens."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tether.core.atomic_io import flush
from tether.core.errors import WriteError

_NEW = ".new-"
_RANDOM = re.compile(r"\.new-[a-z0-9_]{8}")


@contextlib.contextmanager
def replaced_parts(folder: Path, *, keys: Sequence[str], others: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder inside; on success what it holds takes the place of the old parts, on any error it goes.

    All is written before anything old goes. Then the keys go first and come last, so that a process killed between two
    renames leaves parts that nothing opens. What else lies in the folder stays. Only for who alone writes there.

    Args:
        folder: of the parts; made where it is missing.
        keys: names of files without which nothing is opened, the first of them needed by the next.
        others: further names that are removed, also where nothing new has that name.

    Raises:
        WriteError: as on a full disk; what stood there before is unchanged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tether.core.replaced_parts import replaced_parts
        >>> with tempfile.TemporaryDirectory() as folder, replaced_parts(Path(folder), keys=["key"]) as new:
        ...     (new / "key").write_text("1")
        1
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in unfinished(folder):
            shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=folder))
    except OSError as error:
        raise WriteError(folder, error) from error
    try:
        yield new
        for path in (*new.rglob("*"), new):
            flush(path)
    except OSError as error:  # a WriteError among them, which names a file that nobody knows
        shutil.rmtree(new, ignore_errors=True)
        raise WriteError(folder, error.__cause__ or error) from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    try:
        _replace(folder, new, keys=keys, others=others)
    except OSError as error:
        raise WriteError(folder, error, safe="the parts there are of two writings; write it again") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def unfinished(folder: Path) -> list[Path]:
    """The folders inside that processes left which were killed while they wrote new parts; none where there is none."""
    found = folder.glob(f"{_NEW}*")
    return [one for one in found if _RANDOM.fullmatch(one.name) and one.is_dir() and not one.is_symlink()]


def _replace(folder: Path, new: Path, *, keys: Sequence[str], others: Sequence[str]) -> None:
    for name in reversed(keys):
        _remove(folder / name)
    flush(folder)
    for name in others:
        _remove(folder / name)
    order = {name: number for number, name in enumerate(keys)}
    for part in sorted(new.iterdir(), key=lambda path: (order.get(path.name, -1), path.name)):
        if part.name in order:
            flush(folder)
        _remove(folder / part.name)
        part.rename(folder / part.name)
    flush(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
