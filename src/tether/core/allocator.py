"""Memory that is freed stays with the process, so that the next batch does not ask the system for it again."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers them
_LARGEST_BLOCK = 2**30
_MOST_KEPT = 2**31 - 1  # mallopt takes an int
_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let glibc's ``malloc`` keep freed blocks of up to 1 GiB, 2 GiB in all, for the rest of this process.

    By default each block above 32 MiB, as a layer's output for a batch of images, comes from the system and goes back
    to it, and every page of it is cleared at its first use. In a virtual machine that can take more time than the
    computation (``benchmarks/allocator.py``). The peak of memory is about the same; what is freed stays part of
    the process. The command line calls this before a verb. It can be called again.

    Returns:
        Whether it was set: not where the C library is another one (macOS, Windows, musl), and not where the environment
        says something of its own (``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` or ``GLIBC_TUNABLES``).

    Example:
        >>> from tether.core.allocator import keep_freed_memory
        >>> keep_freed_memory() in (True, False)
        True
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OF_THE_USER):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(set_option(_TRIM_THRESHOLD, _MOST_KEPT))
