"""One writer an output: the second is refused with the first one's host and process id."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tether.core.atomic_io import read_json
from tether.core.errors import InputError, LockedError, WriteError

LOCK, OWNER = ".lock", ".lock.json"
"""The two files that a lock keeps in the folder; they mean nothing when no process holds it."""
_ORPHANS = 10.0  # seconds that workers of a killed process may take to notice; they hold the lock until then
_NAMELESS = 1.0  # seconds between taking a lock and naming its owner, or between removing the name and the release


@contextlib.contextmanager
def locked(folder: Path, *, purpose: str, wait: float = 0.0, tidy: bool = False) -> Iterator[None]:
    """Hold a folder for writing while the block runs; it is made where it is missing, and goes if nothing is put there.

    The operating system frees the lock when its process ends, however it ends: a stale lock cannot be.

    Args:
        folder: the output.
        purpose: what the process does there, such as ``tether train``; the refused one is told.
        wait: seconds to wait for another process to finish.
        tidy: the folder goes if nothing else lies in it, also one that was there before.

    Raises:
        LockedError: another process holds it, and still does after the wait.
        InputError: a link, a pipe or a device lies in it, or it is a link to something missing.
        WriteError: the folder cannot be made or written to.
    """
    import filelock

    check_links(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, timeout=0)
        _acquire(lock, folder, wait=wait)
    except OSError as error:
        raise WriteError(folder, error) from error
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "purpose": purpose}
        _refuse_links(folder, purpose=purpose)
        with contextlib.suppress(OSError):  # on a full disk the work itself says so
            (folder / OWNER).write_text(json.dumps(owner), encoding="utf-8")  # half of it is read as unknown
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
            if (made or tidy) and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                for path in made or [folder]:
                    path.rmdir()
        lock.release()


def check_links(folder: Path) -> None:
    """Refuse a folder that cannot be made, since it or one above it is a link to something missing.

    Raises:
        InputError: it names the link.
    """
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: a link to {path.readlink()}, which is missing; make that, or remove the link")


def _refuse_links(folder: Path, *, purpose: str) -> None:
    """A link in an output, such as one that came with somebody's run, would lead writes and removals elsewhere."""
    for entry in os.scandir(folder):
        if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
            raise InputError(
                f"{entry.path}: a link, a pipe or a device in a folder that {purpose} writes to; remove it (the folder "
                "itself may be a link)"
            )


def is_lock(path: Path) -> bool:
    """Whether a file belongs to a lock, by its name."""
    return path.name in (LOCK, OWNER)


def _acquire(lock: object, folder: Path, *, wait: float) -> None:
    import filelock

    assert isinstance(lock, filelock.BaseFileLock)
    start = time.monotonic()
    while True:
        try:
            lock.acquire()
            return
        except filelock.Timeout:
            host, pid, purpose = _owner(folder)
            dead = host == socket.gethostname() and pid is not None and not _alive(pid)
            least = _ORPHANS if dead else _NAMELESS if pid is None else 0.0
            if time.monotonic() - start > max(wait, least):
                who = f"process {pid} on {host} ({purpose})" if pid is not None else "another process"
                raise LockedError(f"{folder}: {who} is writing there; wait for it or choose another folder") from None
            time.sleep(0.02)


def _owner(folder: Path) -> tuple[str, int | None, str]:
    """Host, process id and purpose of who holds the lock, as far as they are written yet."""
    try:
        said = read_json(folder / OWNER)
        return str(said["host"]), int(said["pid"]), str(said["purpose"])
    except (InputError, KeyError, TypeError, ValueError):
        return "", None, ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
