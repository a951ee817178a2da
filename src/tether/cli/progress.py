"""The training display: rate, loss, gradient norm, threshold and time left; Ctrl-C asks the run to save first."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tether.cli import screen
from tether.cli.say import say
from tether.cli.screen import Screen, Words, bars
from tether.cli.stopping import Stopping
from tether.training.run_files import BAD_ROWS

if TYPE_CHECKING:
    from tether.workflows.train import TrainedRun

_SHOWN = ("text_to_image_r10", "image_to_text_r10")
_RECALL = re.compile(r"(text_to_image|image_to_text)_r\d+")
_LINES = 10
"""Lines printed over a run when the output is not a terminal; more where they would be ``screen.EVERY`` s apart."""


class TrainingProgress:
    """Shows log records; during the steps, Ctrl-C and SIGTERM become a request that ``interrupted`` reports."""

    def __init__(self, *, steps: int) -> None:
        """Args: steps: length of the run."""
        self.steps = steps
        self.console = Screen()
        self._stopping = Stopping()
        self._said = time.monotonic()
        self._progress = bars(
            Words("state"), screen=self.console, transient=False, disable=not self.console.is_terminal
        )

    def __enter__(self) -> Self:
        """Start the display and take over the signals."""
        self._stopping.__enter__()
        self._progress.start()
        self._task = self._progress.add_task("training", total=self.steps, state="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display and give the signals back."""
        self._progress.stop()
        self._stopping.__exit__(kind, error, trace)

    def interrupted(self) -> bool:
        """Whether somebody asked the run to stop."""
        return self._stopping.asked()

    def show(self, record: dict[str, Any]) -> None:
        """One record of the logbook."""
        if "eval" in record:
            if record["step"] + 1 < self.steps:
                self.console.print(f"step {record['step'] + 1}: {'  '.join(_recalls(record['eval']))}")
            return
        if "rollback" in record:
            self._turned_back(record["rollback"])
            return
        if "signs" in record:
            for said in record["signs"].values():
                self.console.print(f"step {record['step'] + 1}: {said}", style="yellow")
            return
        if record["skipped"]:
            self.console.print(f"step {record['step'] + 1}: gradients were not finite; step skipped", style="yellow")
        threshold = "" if record["grad_threshold"] == float("inf") else f"/{record['grad_threshold']:.2f}"
        state = (
            f"{record['images_per_second']:.0f} img/s  loss {record['loss']:.3f}  "
            f"grad norm {record['grad_norm']:.2f}{threshold}"
        )
        done = record["step"] + 1
        if done == self.steps:
            self._stopping.last("finish")
        self._progress.update(self._task, completed=done, state=state)
        late = time.monotonic() - self._said >= screen.EVERY
        if not self.console.is_terminal and (late or done % max(1, self.steps // _LINES) == 0 or done == 1):
            self._said = time.monotonic()
            left = (self.steps - done) * record["seconds"] / done
            self.console.print(f"step {done}/{self.steps}  {state}  {left:.0f} s left")

    def _turned_back(self, told: Mapping[str, Any]) -> None:
        """The run goes on from an earlier step."""
        batches = f"{told['skipped_batches']:,} batches passed over"
        self.console.print(
            f"step {told['at'] + 1}: {told['why']}; back to the state after step {told['to']}, {batches}",
            style="yellow",
        )
        self._progress.update(self._task, completed=told["to"])


def _recalls(metrics: Mapping[str, float], *, every: bool = False) -> list[str]:
    """Recalls with their interval and chance, all or those at ten."""
    from tether.evaluate.metric_names import beside, describe, shown

    names = [name for name in metrics if _RECALL.fullmatch(name) and (every or name in _SHOWN)]
    return [f"{describe(name)} {shown(name, metrics[name])} ({beside(name, metrics)})" for name in names]


def summarise(done: TrainedRun, *, before: bool = False) -> None:
    """The last words of a finished run, or of one that was finished ``before``."""
    result, folder = done.result, done.folder
    if before:
        say(f"{folder}: this run was finished before, and nothing was done; it said:")
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    if result.rollbacks:
        skipped += f", gone back {'once' if result.rollbacks == 1 else f'{result.rollbacks} times'}"
    if result.steps:
        rate = f"{result.images_per_second:.0f} images a second"
        say(f"{result.steps} steps{skipped} in {result.seconds:.0f} s ({rate})")
    else:
        say(f"fitted in {result.seconds:.0f} s")
    if done.source:
        counts = [f"{result.metrics.get(name, 0):,.0f}" for name in ("images", "texts")]
        say(f"held out, {done.source}: {counts[0]} images, {counts[1]} captions")
    for line in _recalls(result.metrics, every=True):
        say(f"  {line}")
    if "best_step" in result.metrics:
        say(f"  the best of all evaluations, after step {result.metrics['best_step']:.0f}; chosen on these images")
    bad = folder / BAD_ROWS
    if bad.exists():
        from tether.data.bad_rows import named_in

        count = len(set(named_in(bad)))  # each of several processes may name a row
        say(f"bad rows skipped: {count}, listed in {bad}")
    if done.meaning is not None:
        say("What this means")
        for line in done.meaning.lines():
            say(f"  {line}")
        say("Next")
        for line in done.next:
            say(f"  {line}")
    say(f"model and log: {folder}")
