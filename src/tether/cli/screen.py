"""Tables and bars on the terminal: no markup, no colour and no control character in text from outside."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.text import Text

from tether.core.printable import printable

EVERY = 30.0
"""Seconds between the lines that stand for a bar where the output is no terminal."""

PIPED = 250
"""Columns where no terminal says how wide it is."""


class Screen(Console):
    """A console that takes every text for what it is: a square bracket is no style, a colon no emoji."""

    def __init__(self, **options: Any) -> None:
        """Args: options: of ``rich.console.Console``."""
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text as it is, control characters escaped; cells and titles of tables come this way too."""
        return super().render_str(printable(text, keep="\n"), **options)


class Words(ProgressColumn):
    """What a bar is about, or a field of it."""

    def __init__(self, field: str | None = None) -> None:
        """Args: field: shown instead of the description."""
        super().__init__()
        self._field = field

    def render(self, task: Task) -> Text:
        """The words of this task."""
        said = task.description if self._field is None else task.fields.get(self._field, "")
        return Text(printable(said), no_wrap=True)


class LoggedBars(Progress):
    """Bars; where nobody can see them, a line of how far it is, ``EVERY`` seconds apart."""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        """Args: columns, options: of ``rich.progress.Progress``."""
        super().__init__(*columns, **options)
        self._said = time.monotonic()
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._keep_saying, daemon=True)

    def start(self) -> None:
        """As ``Progress.start`` on a terminal; elsewhere lines come also while nothing is updated."""
        if self.console.is_terminal:
            super().start()
        elif not self.disable:
            self._teller.start()

    def stop(self) -> None:
        """As ``Progress.stop`` on a terminal."""
        self._over.set()
        if self._teller.is_alive():
            self._teller.join()
        if self.console.is_terminal:
            super().stop()

    def _keep_saying(self) -> None:
        while not self._over.wait(max(0.0, EVERY - (time.monotonic() - self._said))):
            self._say()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As ``Progress.update``."""
        super().update(task_id, **changes)
        if not self.disable and not self.console.is_terminal:
            self._say()

    def _say(self) -> None:
        """A line for all that is not finished, if the last one is long enough ago."""
        if time.monotonic() - self._said < EVERY:
            return
        self._said = time.monotonic()
        if open_ones := [task for task in self.tasks if task.visible and not task.finished]:
            self.console.print("; ".join(map(_line, open_ones)), soft_wrap=True)


def _line(task: Task) -> str:
    left = "" if task.time_remaining is None else f", about {task.time_remaining:.0f} s left"
    return f"{task.description}: {task.completed:,.0f}{'' if task.total is None else f' of {task.total:,.0f}'}{left}"


def bars(*more: ProgressColumn, screen: Screen | None = None, **options: Any) -> LoggedBars:
    """Bars on standard error that vanish when they are done; lines now and then where it is no terminal.

    Args:
        more: columns behind the usual ones.
        screen: where they are drawn.
        options: of ``rich.progress.Progress``.
    """
    columns = (Words(), BarColumn(), MofNCompleteColumn(), *more, TimeRemainingColumn())
    settings: dict[str, Any] = {"transient": True, **options}
    return LoggedBars(*columns, console=screen or Screen(stderr=True), **settings)


@contextlib.contextmanager
def staged_bar(what: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """One such bar for one stage after the other; gives the function that moves it, which takes a stage's name first.

    Args:
        what: the first stage.
    """
    with bars() as shown:
        task = shown.add_task(what, total=None)
        yield lambda stage, done, total: shown.update(task, description=stage, completed=done, total=total)


@contextlib.contextmanager
def stoppable(what: str) -> Iterator[tuple[Callable[[int, int | None], None], Callable[[], bool]]]:
    """Such a bar for steps whose end must be written: gives the function that moves it, and whether to stop.

    Args:
        what: it is about.
    """
    from tether.cli.stopping import Stopping

    with bar(what) as shown, Stopping() as stopping:

        def step(done: int, total: int | None) -> None:
            shown(done, total)
            if total is not None and done + 1 >= total:
                stopping.last("finish")

        yield step, stopping.asked


@contextlib.contextmanager
def bar(what: str, *, visible: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """One such bar; gives the function that moves it, which takes how many are done and how many there are.

    Args:
        what: it is about.
        visible: from the beginning; else once something is done.
    """
    with bars() as shown:
        task = shown.add_task(what, total=None, visible=visible)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=True)
