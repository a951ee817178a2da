"""Pieces of a pass done by worker processes of this machine; one that dies loses its piece, which another one does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tether.core.errors import InputError, TetherError
from tether.data.curate.plan import Plan, Tally

_TRIES = 3
"""Deaths over one piece before it is given up: memory will run out again, but a stray signal will not come again."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    piece: int


def by_workers(plan: Plan, *, number: int, pieces: Sequence[int], workers: int) -> Iterator[tuple[int, Tally]]:
    """Do the pieces on ``workers`` processes; yields each with its counts when its files are there.

    Raises:
        InputError: what ``plan.work`` refuses, or a piece over which three workers died.
        OSError: a worker could not write.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
    if sys.platform != "win32":
        context.set_forkserver_preload(["tether.data.curate.plan"])  # pyrefly: ignore[missing-attribute]
    waiting, deaths = deque(pieces), Counter[int]()
    crew: dict[Connection, _Worker] = {}
    threads = max(1, cores() // workers)

    def start() -> None:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, threads), daemon=True)
        process.start()
        there.close()
        with contextlib.suppress(OSError):  # if it is dead already, the pipe's end says so below
            here.send((plan, number))
        crew[here] = _Worker(process, -1)
        give(here)

    def give(connection: Connection) -> None:
        crew[connection].piece = waiting.popleft()
        with contextlib.suppress(OSError):
            connection.send(crew[connection].piece)

    try:
        for _ in range(min(workers, len(pieces))):
            start()
        while crew:
            for connection in wait(list(crew)):
                assert isinstance(connection, Connection)
                piece = crew[connection].piece
                try:
                    tally, error = connection.recv()
                except (EOFError, OSError):
                    _dismiss(connection, crew.pop(connection))
                    deaths[piece] += 1
                    if deaths[piece] == _TRIES:
                        raise InputError(
                            f"{plan.pool.name}: {_TRIES} workers died over piece {piece}; is there enough memory? "
                            "Fewer workers need less"
                        ) from None
                    waiting.appendleft(piece)
                    start()
                    continue
                if error is not None:
                    raise error
                if waiting:
                    give(connection)
                else:
                    _dismiss(connection, crew.pop(connection))
                yield piece, tally
    finally:
        for connection, worker in crew.items():
            worker.process.terminate()
            _dismiss(connection, worker)


def _dismiss(connection: Connection, worker: _Worker) -> None:
    """A worker whose pipe ends goes by itself."""
    connection.close()
    worker.process.join()
    worker.process.close()


def _serve(connection: Connection, threads: int) -> None:
    """A worker's life: it is given the plan once and then numbers of pieces, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    _limit_threads(threads)
    try:
        plan, number = connection.recv()
        while True:
            connection.send(_done(plan, number, connection.recv()))
    except (EOFError, OSError):
        return


def _done(plan: Plan, number: int, piece: int) -> tuple[Tally, Exception | None]:
    try:
        return plan.work(number, piece), None
    except TetherError as error:
        return (), InputError(str(error))
    except OSError as error:
        return (), OSError(*error.args) if error.filename is None else OSError(
            error.errno, error.strerror, error.filename
        )
    except Exception:
        return (), RuntimeError(f"a worker failed at piece {piece}:\n{traceback.format_exc()}")


def _limit_threads(threads: int) -> None:
    """Workers share the cores, so that each library may use its share only."""
    import pyarrow as pa

    pa.set_cpu_count(threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
