"""The other end of ``guarded``: imports little, limits its own memory, and does one task after another."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tether.core.guarded import read_message, write_message

_LARGEST_SCALE = 8.0  # 576 dots an inch: a page of one point is not blown up without end
_Answer = tuple[dict[str, Any], bytes]


def serve(memory: int) -> None:
    """Answer until nobody asks any more; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides when to stop
    while True:
        try:
            question, data = read_message(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer, found = _TASKS[question.pop("task")](data, memory=memory, **question)
        except MemoryError:
            answer, found = {"error": f"needs more than {memory >> 20} MiB of memory"}, b""
        except Exception as error:  # a damaged file raises errors of any kind
            answer, found = {"error": str(error) or type(error).__name__}, b""
        write_message(answers, answer, found)


def _first_page(data: bytes, *, memory: int, size: int) -> _Answer:
    """The first page of a PDF as RGB, at ``size`` pixels."""
    import numpy as np
    import pypdfium2

    _limit(memory)
    document = pypdfium2.PdfDocument(data)
    try:
        page = document[0]
        scale = min(size / max(*page.get_size(), 1e-3), _LARGEST_SCALE)
        pixels = np.ascontiguousarray(page.render(scale=scale, rev_byteorder=True).to_numpy()[..., :3])
    finally:
        document.close()
    return {"shape": pixels.shape}, pixels.tobytes()


def _parquet(data: bytes, *, memory: int, path: str, group: int, columns: list[str], rows: int) -> _Answer:
    """Read columns of one row group to their end; the bytes of all batches."""
    import pyarrow.parquet as pq

    _limit(memory)
    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    batches = file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
    return {"size": sum(batch.nbytes for batch in batches)}, b""


def _limit(memory: int) -> None:
    """From now on at most so many bytes more than now; only Linux tells how many there are."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))


_TASKS = {"begin": lambda data, *, memory: ({}, b""), "first_page": _first_page, "parquet": _parquet}
