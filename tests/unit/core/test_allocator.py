"""Freed memory stays with the process where the C library is glibc, and nothing happens elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tether.core.allocator import keep_freed_memory

_COUNTS = """
import ctypes, sys
from tether.core.allocator import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "free", "fast", "mapped", *"abcdef")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = libc.mallinfo2().mapped
libc.malloc(100 * 2**20)
print(libc.mallinfo2().mapped - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
@pytest.mark.parametrize(("how", "mapped"), [("default", 1), ("kept", 0)])
def test_a_large_block_comes_from_the_heap(how: str, mapped: int) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _COUNTS, how], env=environment, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == mapped


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1000000")
    assert not keep_freed_memory()


def test_nothing_is_set_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
