"""Work on files from outside in a process of its own, which may crash, hang or eat memory without harm."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from tether.core.errors import InputError

SECONDS = 10.0
MEMORY = 1 << 30
"""Bytes that a task may take above what the process has when it begins; kept on Linux."""

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from tether.core.guarded_worker import serve; serve(int(sys.argv[2]))"
)


class _Worker:
    """One process that does one task after another."""

    def __init__(self) -> None:
        self.owner, self.late = os.getpid(), False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        try:
            self.ask({"task": "begin"}, b"", seconds=60.0)  # so that its start does not count
        except (EOFError, OSError):
            raise InputError(f"the process that is to read it does not start (code {self.close()})") from None

    def ask(self, question: Mapping[str, Any], data: bytes, *, seconds: float) -> tuple[dict[str, Any], bytes]:
        def stop() -> None:
            self.late = True
            self._process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            write_message(self._questions, question, data)
            return read_message(self._answers)
        finally:
            timer.cancel()

    def is_gone(self) -> bool:
        """Whether it ended while it had nothing to do."""
        return self._process.poll() is not None

    def close(self) -> int | None:
        """End the process; its exit code."""
        self._process.kill()
        self._answers.close()
        with contextlib.suppress(OSError):  # what was not sent is lost
            self._questions.close()
        return self._process.wait()


_LOCK = threading.Lock()
_WORKERS: list[_Worker] = []


def guarded(task: str, *, data: bytes = b"", seconds: float = SECONDS, **settings: Any) -> tuple[dict[str, Any], bytes]:
    """Do one of the tasks of ``guarded_worker`` on bytes or files from outside.

    The process starts when it is first needed and is kept; after a kill or a crash the next task starts another. One
    task runs at a time.

    Args:
        task: its name.
        data: bytes it works on.
        seconds: after which the process is killed.
        settings: plain values.

    Raises:
        InputError: what the task found wrong, or that it took too long, needed too much memory or crashed.
    """
    with _LOCK:
        if _WORKERS and _WORKERS[0].owner != os.getpid():
            _WORKERS.clear()  # the parent's, inherited by a fork
        if _WORKERS and _WORKERS[0].is_gone():
            _close()
        if not _WORKERS:
            _WORKERS.append(_Worker())
        worker = _WORKERS[0]
        try:
            answer, found = worker.ask({"task": task, **settings}, data, seconds=seconds)
        except (EOFError, OSError):
            code = _close()
            why = f"takes more than {seconds:g} s" if worker.late else f"crashes the program that reads it ({code})"
            raise InputError(why) from None
        except BaseException:
            _close()
            raise
        if worker.late:
            _close()
    if "error" in answer:
        raise InputError(str(answer["error"]))
    return answer, found


def _close() -> int | None:
    """End the process of this process, if there is one."""
    return _WORKERS.pop().close() if _WORKERS and _WORKERS[0].owner == os.getpid() else None


atexit.register(_close)


def write_message(file: IO[bytes], value: Mapping[str, Any], data: bytes = b"") -> None:
    """A line of JSON, which tells the number of bytes, and the bytes."""
    file.write(json.dumps({**value, "bytes": len(data)}).encode() + b"\n")
    file.write(data)
    file.flush()


def read_message(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """What ``write_message`` wrote.

    Raises:
        EOFError: the other side is gone.
    """
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    value = json.loads(line)
    count = value.pop("bytes")
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return value, data
