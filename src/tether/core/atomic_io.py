"""Files written atomically and read with limits: a temporary name, a flush to disk, a rename."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from tether.core.errors import InputError, WriteError, reason_of
from tether.core.printable import CsvRows

MAX_CONFIG_BYTES = 64 * 2**20
"""Largest JSON or text file that is read whole; a model's description has kilobytes, a tokenizer 20 MB."""

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.IGNORECASE)


@contextlib.contextmanager
def atomic_path(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    What a killed process left of an earlier write to the same path is removed first.

    Args:
        path: of the file.
        private: only its owner may read it, from its first byte on; else who may read any new file.

    Raises:
        InputError: a device or a pipe stands there, which must not be replaced, or a name that no file can have.
        WriteError: the file could not be written, as on a full disk; what stood there before is unchanged.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: not a regular file, so nothing is written there")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, of=path.name)
        handle, temporary = _new_temporary(path)
    except OSError as error:
        raise WriteError(path, error) from error
    except ValueError as error:  # a NUL in the name, or half a surrogate pair
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r:.200}: not the name of a file: {error}") from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o600) if private else as_umask_says(temporary)
        temporary.replace(path)
    except WriteError:
        raise
    except OSError as error:
        if error.filename in (None, str(temporary)):
            raise WriteError(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        handle.close()


@contextlib.contextmanager
def atomic_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; on success it takes its place, on any error it is removed.

    What a killed process left of an earlier write to the same place is removed first; if it was killed between the two
    renames, the old folder is put back before. Only for who alone writes there.

    Args:
        folder: to write.
        replace: one that is there, with all that it holds; else only an empty one is.

    Raises:
        InputError: see ``check_new_folder``, without ``replace``.
        WriteError: as on a full disk; what stood there before is unchanged.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f"{_beside(glob.escape(folder.name))}*"):
            if _is_leftover(leftover, of=folder.name):
                if not folder.exists() and (leftover / _OLD).is_dir():
                    (leftover / _OLD).rename(folder)
                shutil.rmtree(leftover, ignore_errors=True)
        if not replace:
            check_new_folder(folder)
        temporary = Path(tempfile.mkdtemp(prefix=_beside(folder.name), dir=folder.parent))
    except OSError as error:
        raise WriteError(folder, error) from error
    try:
        new, old = temporary / _NEW, temporary / _OLD
        new.mkdir()
        yield new
        for path in new.rglob("*"):
            flush(path)
        flush(new)
        if not replace:
            check_new_folder(folder)  # again: another may have written there meanwhile
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        flush(folder.parent)
    except WriteError:
        raise
    except OSError as error:
        if error.filename is None or Path(str(error.filename)).is_relative_to(temporary):
            raise WriteError(folder, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_NEW, _OLD = "new", "old"


def _beside(name: str) -> str:
    return f".{name}-"


def _is_leftover(folder: Path, *, of: str) -> bool:
    """Whether it is one that ``atomic_folder`` made, which a neighbour of a like name is not."""
    random = folder.name.removeprefix(_beside(of))
    if not re.fullmatch(r"[a-z0-9_]{8}", random) or folder.is_symlink() or not folder.is_dir():
        return False
    return {one.name for one in folder.iterdir()} <= {_NEW, _OLD}


def as_umask_says(file: Path) -> None:
    """Give a file the permissions of any new one; some libraries make theirs for their user alone."""
    file.chmod(0o666 & ~_umask())


def flush(path: Path) -> None:
    """Push one file or folder to disk; folders cannot be opened on every system, and there nothing is needed."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove the temporary files of writes that were killed; those of a living process stay.

    Args:
        folder: where to look, not in folders below it.
        of: only those of the file with this name; None means all.
    """
    for path in folder.glob(".*.tmp"):
        if is_temporary(path) and (of is None or path.name.startswith(f".{of}.")):
            with contextlib.suppress(OSError, InputError), _regular(path, os.O_RDONLY, "rb") as file:
                if _lock(file):
                    path.unlink()


def open_append(path: Path) -> IO[str]:
    """A text file to append to; it is made where it is missing, and its folder too.

    Raises:
        InputError: a link, a device or a pipe stands there.
        WriteError: it cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "a")
    except OSError as error:
        raise WriteError(path, error) from error


def _regular(path: Path, flags: int, mode: str) -> IO[Any]:
    """Open a regular file by its own name: no link is followed, and no pipe is waited for."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: a link, a pipe or a device, so nothing is written there")
    number = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    binary = "b" in mode
    encoding, errors = (None, None) if binary else ("utf-8", "backslashreplace")
    return os.fdopen(number, mode, encoding=encoding, errors=errors)


def regular(path: str | Path) -> Path:
    """The same path, after a look that nothing else than a file stands there; a missing one is as good.

    Raises:
        InputError: a folder, a device or a pipe, which would be waited for.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file")
    return path


def is_temporary(path: Path) -> bool:
    """Whether a file is the unfinished output of ``atomic_path``, by its name."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _new_temporary(path: Path) -> tuple[IO[bytes], Path]:
    """A new file, locked as long as its handle is open, so that another process can tell that it is in use."""
    while True:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        file, temporary = os.fdopen(number, "wb"), Path(name)
        _lock(file)
        if temporary.exists():  # another process may have removed it before it was locked
            return file, temporary
        file.close()


def _lock(file: IO[bytes]) -> bool:
    """Try to lock an open file against other processes; always False where the system cannot."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write text atomically as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def local(path: str | Path) -> Path:
    """A path of this machine that the system can be asked about, with ``~`` for the user's folder.

    Raises:
        InputError: ``~name`` of a user who is not there, or a name that no file can have.
    """
    try:
        found = Path(path).expanduser()
        found.exists()
        if "\0" in str(found):  # which the system is not asked about
            raise ValueError("embedded NUL")
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{str(path)!r:.200}: no such file or folder: {reason_of(error)}") from None
    return found


def read_bytes(path: str | Path, *, limit: int) -> bytes:
    """The contents of a regular file.

    Raises:
        InputError: no such file, a folder, a device or a pipe, a name that no file can have, or more than ``limit``
            bytes.
    """
    try:
        # a pipe would block and a device may never end, so neither is opened for good
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(number, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a regular file")
            data = file.read(min(limit, status.st_size) + 1)  # so much memory is set aside before a byte is read
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {reason_of(error).lower()}") from error
    except ValueError as error:  # a NUL in the name, or half a surrogate pair
        raise InputError(f"{str(path)!r}: not the name of a file: {error}") from error
    if len(data) > limit:
        raise InputError(f"{path}: {status.st_size:,} bytes; at most {limit:,} are read")
    return data


def read_text(path: str | Path, *, limit: int = MAX_CONFIG_BYTES) -> str:
    """A whole UTF-8 file, without a byte-order mark.

    Raises:
        InputError: as for ``read_bytes``, or not UTF-8.
    """
    return decode_text(read_bytes(path, limit=limit), where=str(path))


def decode_text(data: bytes, *, where: str) -> str:
    """UTF-8 to text, without a byte-order mark.

    Raises:
        InputError: not UTF-8; it names the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}: not UTF-8 text: byte {data[error.start]:#04x} in line {line}") from None


def read_json(path: Path) -> Any:
    """Read JSON; a missing or malformed file is an InputError that names it."""
    return parse_json(read_text(path), where=str(path))


def parse_json(text: str | bytes, *, where: str, twice: Literal["last", "refused"] = "last") -> Any:
    """JSON from outside to plain values.

    Args:
        text: what is read.
        where: file, for the error message.
        twice: of a name that comes twice in one object the last value counts, as in other readers, or it is refused.

    Raises:
        InputError: malformed, nested too deeply, a number of thousands of digits, or text that is not Unicode.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=dict if twice == "last" else _once)
        if "\\u" in text:  # an escape may be half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{where}: not readable JSON: nested too deeply") from None
    except UnicodeError:
        raise InputError(f"{where}: not valid JSON: text that is not Unicode") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r:.80} comes twice")
    return found


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
        taken = not stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        taken = False
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{where}: {path}: {reason_of(error).lower()}") from None
    except ValueError as error:
        raise InputError(f"{where}: {str(path)!r}: {error}") from None
    if taken:
        raise InputError(f"{where}: expected the name of a file, got {str(path)!r}")
    _check_near(path, where=where)


def check_new_folder(folder: Path, *, where: str | None = None) -> None:
    """See that a folder can be written there, as a new one or in place of an empty one; nothing is made.

    Args:
        folder: to write.
        where: option or argument, for the error.

    Raises:
        InputError: a folder that holds something or that the process is in, a file, a link, a name that no folder can
            have, or a place that cannot be written to.
    """
    said, there = f"{where}: {folder}" if where else f"{folder}:", local(folder)
    if there.is_symlink():
        raise InputError(f"{said} is a link; expected a new folder, or an empty one")
    if there.exists() and (not there.is_dir() or any(there.iterdir())):
        raise InputError(f"{said} is there already; expected a new folder, or an empty one")
    if there.resolve() == Path.cwd():
        raise InputError(f"{said} is the folder that this runs in; expected another one")
    _check_near(there, where=where or "folder")


def _check_near(path: Path, *, where: str) -> None:
    """See that what is nearest above a path can be written to."""
    near = next(parent for parent in path.absolute().parents if parent.exists())
    if not near.is_dir():
        raise InputError(f"{where}: {path}: {near} is a file, not a folder")
    if not os.access(near, os.W_OK):
        raise InputError(f"{where}: {path}: no permission to write in {near}")


@contextlib.contextmanager
def csv_file(path: str | Path, columns: Sequence[str], *, raw_csv: bool = False) -> Iterator[CsvRows]:
    """A file to write rows to, below the names of its columns; it appears when all is written.

    Args:
        path: of the file.
        columns: their names.
        raw_csv: write texts that a spreadsheet would run as formulas as they are, not with an apostrophe.
    """
    with (
        atomic_path(Path(path)) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = CsvRows(file, raw_csv=raw_csv)
        table.write(columns)
        yield table
