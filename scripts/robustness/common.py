"""What the drivers share: calls in forked processes, each with its outcome, time and memory."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200", "NO_COLOR": "1"}

MIB = 2**20
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
SPARE = 8  # GiB of addresses beyond the limit, so that the limit itself is what is noticed
RAN: list[str] = []
"""What a call did that no file may make it do: a program started, the network asked."""
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")

Task = tuple[str, Sequence[int]]
Call = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Trial:
    """One call: ``ok``, ``refused`` (a TetherError) or ``failed`` (anything else)."""

    name: str
    number: int
    outcome: str
    detail: str
    seconds: float
    mib: float


WARM = (
    "PIL.Image", "datasets", "lancedb", "open_clip", "pandas", "pyarrow.dataset", "pyarrow.parquet", "pydicom.pixels",
    "pylatexenc.latex2text", "pypdfium2", "sklearn.covariance", "torch", "transformers", "accelerate", "rich.progress",
    "tether.cli", "tether.data.curate.engine.run", "tether.methods.medical_survey.high_bit_depth",
    "tether.methods.scientific_papers.source",
    "tether.evaluate.report", "tether.evaluate.datasheet", "tether.tasks.curate", "tether.tasks.retrieve.index",
    "tether.training.run",
)  # fmt: skip


def warm() -> None:
    """Import before forking what calls need; lancedb, the one with threads, starts them anew in a fork."""
    warnings.simplefilter("ignore")
    for name in WARM:
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def judge(call: Callable[[], object]) -> tuple[str, str]:
    """Outcome and detail of a call; refused only because the memory ran out is failed."""
    from tether.core.errors import TetherError

    RAN.clear()
    try:
        call()
        outcome, detail = "ok", ""
    except TetherError as error:
        outcome, detail = "refused", str(error)
        cause: BaseException | None = error
        while cause is not None and outcome == "refused":
            if isinstance(cause, MemoryError):
                outcome, detail = "failed", f"memory ran out: {detail}"
            cause = cause.__cause__ or cause.__context__
    except BaseException as error:  # pyo3's PanicException is no Exception
        frames = traceback.extract_tb(error.__traceback__)
        own = next((frame for frame in reversed(frames) if "/tether/" in frame.filename), frames[-1])
        place = f"{own.filename.rpartition('/tether/')[2]}:{own.lineno}"
        outcome, detail = "failed", f"{type(error).__name__} at {place}: {error}"
    if RAN:
        outcome, detail = "failed", f"ran {RAN[0]}; {detail}"
    return outcome, detail.encode(errors="backslashreplace").decode()[:400]


def usage() -> tuple[float, float]:
    """CPU seconds of this process and of its ended children, and the largest of all their peaks in MiB."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(each.ru_utime + each.ru_stime for each in (own, children))
    peaks = [own.ru_maxrss * RSS_UNIT / MIB, children.ru_maxrss * RSS_UNIT / MIB]
    with contextlib.suppress(OSError):  # children that live, where the system tells of them
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                status = Path(f"/proc/{child}/status").read_text(encoding="utf-8", errors="replace")
                peaks.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    return seconds, max(peaks)


def run(
    tasks: Iterable[Task],
    prepare: Callable[[str], Call],
    *,
    jobs: int = 1,
    seconds: float = 10,
    memory: float = 1024,
    patience: float = 3,
) -> Iterator[Trial]:
    """Do tasks in forked processes.

    A call fails when it takes over ``seconds`` of CPU or ``patience`` times as long on the clock, or over ``memory``
    MiB above the idle process. A call that ends its process or hangs is failed, and the rest of its task goes on in
    another process.

    Args:
        tasks: a name and numbers.
        prepare: called in the child with the name; gives the call that takes a number.
        jobs: processes at once.
        seconds: see above.
        memory: see above.
        patience: see above.
    """
    waiting, running = list(tasks), {}
    waiting.reverse()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                child = _Child(waiting.pop(), prepare, seconds=seconds, memory=memory)
                running[child.pipe] = child
            for pipe in select.select(list(running), [], [], 0.2)[0]:
                yield from running[pipe].read()
            for pipe, child in list(running.items()):
                if not child.over and child.since() > seconds * patience:
                    child.kill()
                if child.over:
                    yield from child.last()
                    if child.left:
                        waiting.append((child.name, child.left))
                    del running[pipe]
    finally:
        for child in running.values():
            child.kill()


class _Child:
    def __init__(self, task: Task, prepare: Callable[[str], Call], *, seconds: float, memory: float) -> None:
        self.name, self.left = task[0], list(task[1])
        self.began, self.current, self.over, self.hung = time.monotonic(), -1, False, False
        self._buffer = b""
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _in_child(write, task, prepare, seconds, memory)
        os.close(write)

    def since(self) -> float:
        return time.monotonic() - self.began

    def read(self) -> Iterator[Trial]:
        data = os.read(self.pipe, 1 << 16)
        self.over = not data
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self.began = time.monotonic()
            message = json.loads(line)
            if "begin" in message:
                self.current = message["begin"]
                self.left.remove(self.current)
            else:
                self.current = -1
                yield Trial(**message)

    def kill(self) -> None:
        self.hung = self.over = True
        for what in (os.killpg, os.kill):
            with contextlib.suppress(OSError):
                what(self.pid, signal.SIGKILL)

    def last(self) -> Iterator[Trial]:
        os.close(self.pipe)
        _, status, used = os.wait4(self.pid, 0)
        if self.current < 0 and not self.left:
            return
        code = os.waitstatus_to_exitcode(status)
        what = f"hung for {self.since():.0f} s" if self.hung else f"ended its process, {code}"
        if self.current < 0 and code != 3:  # could not even be prepared
            self.current, self.left = self.left[0], []
        if self.current >= 0:
            yield Trial(self.name, self.current, "failed", what, self.since(), used.ru_maxrss * RSS_UNIT / MIB)


def _in_child(write: int, task: Task, prepare: Callable[[str], Call], seconds: float, memory: float) -> None:
    code = 4
    try:
        os.setpgid(0, 0)
        warnings.simplefilter("ignore")
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2) if not os.environ.get("ROBUSTNESS_STDERR") else (0,):
            os.dup2(null, standard)
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            code = _calls(write, task, prepare, seconds, memory)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _calls(write: int, task: Task, prepare: Callable[[str], Call], seconds: float, memory: float) -> int:
    name, numbers = task
    call = prepare(name)
    sys.addaudithook(_note)
    _bound_addresses(memory)
    idle = usage()[1]
    for number in numbers:
        os.write(write, json.dumps({"begin": number}).encode() + b"\n")
        before = usage()[0]
        outcome, detail = judge(lambda number=number: call(number))
        after, peak = usage()
        took, above = after - before, peak - idle
        if above > memory:
            outcome, detail = "failed", f"{above:,.0f} MiB above idle; {outcome}: {detail}"
        elif took > seconds:
            outcome, detail = "failed", f"{took:.1f} s; {outcome}: {detail}"
        os.write(write, json.dumps(asdict(Trial(name, number, outcome, detail, took, above))).encode() + b"\n")
        if above > memory:
            return 3  # the peak of a process never falls, so the rest goes on in another
    return 0


def _note(event: str, given: tuple[object, ...]) -> None:
    # Readers may start this Python as a guarded worker; since 3.13 subprocess does that with posix_spawn.
    of_ours = event in ("subprocess.Popen", "os.posix_spawn") and given[0] == sys.executable
    if event in _FORBIDDEN and not of_ours:
        RAN.append(f"{event} {given[:2]!s:.80}")


def _bound_addresses(memory: float) -> None:
    """So that what asks for all memory at once fails here and not the machine."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + int((memory + SPARE * 1024) * MIB)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of cells as text; numbers stand to the right."""
    cells = [[f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(cell, (int, float)) for cell in column) for column in zip(*rows[1:], strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )
