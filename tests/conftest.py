"""Shared by all tests: one thread, a cache of their own, no network."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_HOLDS = """
import sys, time
from pathlib import Path
from tether.core.locks import locked
with locked(Path(sys.argv[1]), purpose=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return Path(__file__).parents[1]


@pytest.fixture
def holder() -> Callable[[Path, str], contextlib.AbstractContextManager[int]]:
    """``with holder(folder, purpose) as pid``: another process, killed at the end, holds the folder's lock."""

    @contextlib.contextmanager
    def hold(folder: Path, purpose: str) -> Iterator[int]:
        command = [sys.executable, "-c", _HOLDS, str(folder), purpose]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            try:
                yield process.pid
            finally:
                process.kill()

    return hold
