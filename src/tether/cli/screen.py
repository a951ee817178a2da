"""Tables and bars on the terminal: no markup, no colour and no control character in text from outside."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from tether.core.printable import printable


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


def bars(*more: ProgressColumn, screen: Screen | None = None, **options: Any) -> Progress:
    """Bars on standard error that vanish when they are done.

    Args:
        more: columns behind the usual ones.
        screen: where they are drawn.
        options: of ``rich.progress.Progress``.
    """
    columns = (Words(), BarColumn(), MofNCompleteColumn(), *more, TimeRemainingColumn())
    settings: dict[str, Any] = {"transient": True, **options}
    return Progress(*columns, console=screen or Screen(stderr=True), **settings)
