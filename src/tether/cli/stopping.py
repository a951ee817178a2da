"""Ctrl-C and SIGTERM as a request: what runs saves first and stops then."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_STOPPING = b"tether: stopping after this step, with a checkpoint; Ctrl-C again stops at once\n"


class Stopping:
    """While it is open, the signals become a request that ``asked`` reports; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        """Nothing is taken over yet."""
        self._asked = False
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
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the checkpoint
        self._asked = True
        os.write(2, _STOPPING)  # a signal may come in the middle of a print, which cannot be entered twice
