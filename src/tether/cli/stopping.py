"""Ctrl-C and SIGTERM as a request: while steps are taken, what runs saves first and stops then."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Literal, Self

_SAVES = b"tether: stopping after this step, with a checkpoint; Ctrl-C again stops at once\n"
_FINISHES = b"tether: all steps are done, the run is being finished; Ctrl-C again stops at once\n"


class Terminated(KeyboardInterrupt):
    """SIGTERM: everything ends as it does on Ctrl-C, with another exit code."""


class Stopping:
    """While it is open, the signals become a request that ``asked`` reports; a second Ctrl-C stops at once.

    From the first question on it expects another after each step. Where none is to come nobody would hear a request,
    so a signal stops at once: ``KeyboardInterrupt``, or ``Terminated`` for SIGTERM.
    """

    def __init__(self) -> None:
        """Nothing is taken over yet."""
        self._asked = False
        self._says: bytes | None = None  # None: nobody hears
        self._next: bytes | None = _SAVES
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether somebody asked the run to stop."""
        self._says, self._next = self._next, _SAVES
        return self._asked

    def last(self, then: Literal["stop", "finish"]) -> None:
        """Tell it that no question follows the next one.

        Args:
            then: what a signal does after it: stop at once, or let what is left be finished, where stopping would lose
                what has been done.
        """
        self._next = None if then == "stop" else _FINISHES

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._says is None or (self._asked and number == signal.SIGINT):  # asked twice: do not wait
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self._asked = True
        os.write(2, self._says)  # a signal may come in the middle of a print, which cannot be entered twice
