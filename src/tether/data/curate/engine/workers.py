"""Pieces done on this machine, by worker processes; one that dies loses its piece, which another one does."""

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
from tether.data.curate.engine.plan import Plan, Tally

_TRIES = 3
"""Deaths over one piece before it is given up: memory will run out again, but a stray signal will not come again."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    told: int  # which run's plan it has, 0 for none
    piece: int  # what it does, -1 for nothing


class Local:
    """The engine of this machine: this process alone, or workers that stay for all passes and keep what they loaded."""

    def __init__(self, workers: int) -> None:
        """Args: workers: how many processes at most; none is started before there is work, and with one none at all."""
        self._workers = workers
        self._threads = max(1, cores() // workers)
        self._crew: dict[Connection, _Worker] = {}
        self._run = 0

    def run(self, plan: Plan, *, number: int, pieces: Sequence[int]) -> Iterator[tuple[int, Tally]]:
        """Do the pieces of pass ``number``; yields each with its counts when its files are there.

        Raises:
            InputError: what ``plan.work`` refuses, or a piece over which three workers died.
            OSError: a worker could not write.
        """
        if min(self._workers, len(pieces)) < 2:
            for piece in pieces:
                yield piece, plan.work(number, piece)
            return
        waiting, deaths = deque(pieces), Counter[int]()
        self._run += 1
        while len(self._crew) < min(self._workers, len(pieces)):
            self._hire(plan)
        for connection in self._crew:
            self._give(connection, plan, number, waiting)
        while busy := [connection for connection, worker in self._crew.items() if worker.piece >= 0]:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                piece = self._crew[connection].piece
                try:
                    tally, error = connection.recv()
                except (EOFError, OSError):
                    _dismiss(connection, self._crew.pop(connection))
                    deaths[piece] += 1
                    if deaths[piece] == _TRIES:
                        raise InputError(
                            f"{plan.pool.name}: {_TRIES} workers died over piece {piece}; is there enough memory? "
                            "Fewer workers need less. In a script, what starts them must stand under "
                            'if __name__ == "__main__"'
                        ) from None
                    waiting.appendleft(piece)
                    connection = self._hire(plan)
                    self._give(connection, plan, number, waiting)
                    continue
                if error is not None:
                    raise error
                self._give(connection, plan, number, waiting)
                yield piece, tally

    def close(self) -> None:
        """Send everybody home; who is at work is stopped."""
        for connection, worker in self._crew.items():
            if worker.piece >= 0:
                worker.process.terminate()
            _dismiss(connection, worker)
        self._crew.clear()

    def _hire(self, plan: Plan) -> Connection:
        context = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
        if sys.platform != "win32":
            # Imported once, for all workers; it counts only for the first that is hired in this process.
            steps = {type(step).__module__ for _, step in plan.steps}
            needed = {"tether.data.curate.engine.plan", *steps} - {"__main__"}
            context.set_forkserver_preload(sorted(needed))  # pyrefly: ignore[missing-attribute]
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._threads), daemon=True)
        process.start()
        there.close()
        self._crew[here] = _Worker(process, 0, -1)
        return here

    def _give(self, connection: Connection, plan: Plan, number: int, waiting: deque[int]) -> None:
        worker = self._crew[connection]
        worker.piece = waiting.popleft() if waiting else -1
        if worker.piece < 0:
            return
        with contextlib.suppress(OSError):  # if it has died, the end of its pipe will say so
            connection.send((plan if worker.told != self._run else None, number, worker.piece))
            worker.told = self._run


def _dismiss(connection: Connection, worker: _Worker) -> None:
    """A worker whose pipe ends goes by itself."""
    connection.close()
    worker.process.join()
    worker.process.close()


def _serve(connection: Connection, threads: int) -> None:
    """A worker's life: it is given a plan once a pass, and numbers of pieces until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    _limit_threads(threads)
    try:
        plan, number, piece = connection.recv()
        while True:
            connection.send(_done(plan, number, piece))
            given, number, piece = connection.recv()
            plan = given or plan
    except (EOFError, OSError):
        return


def _done(plan: Plan, number: int, piece: int) -> tuple[Tally, Exception | None]:
    try:
        return plan.work(number, piece), None
    except TetherError as error:
        return (), InputError(str(error))
    except OSError as error:
        return (), OSError(error.errno, error.strerror or str(error), error.filename)
    except Exception:
        return (), RuntimeError(f"a worker failed at piece {piece}:\n{traceback.format_exc()}")


def _limit_threads(threads: int) -> None:
    """Workers share the cores, so that each library may use its share only."""
    import pyarrow as pa

    pa.set_cpu_count(threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
