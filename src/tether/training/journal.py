"""What a run writes down while it trains: its log, its trackers, and what its course is a sign of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tether.training.config import RunConfig
from tether.training.loop import StepReport
from tether.training.metrics_log import Logbook
from tether.training.rollback import DivergedError, steps_undone
from tether.training.run_files import METRICS
from tether.training.signs import RunCourse
from tether.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

OnRecord = Callable[[dict[str, Any]], None]


class Journal:
    """Collects reports of steps, and writes them as records when it is told to.

    Attributes:
        skipped: steps so far whose gradients were not finite.
        seconds: of training so far.
        last_loss: mean over processes.
    """

    def __init__(
        self, config: RunConfig, folder: Path, accelerator: Accelerator, *, on_record: OnRecord | None
    ) -> None:
        """Nothing written yet; ``open`` it first. Args: as of ``train``."""
        self.skipped, self.seconds, self.last_loss = 0, 0.0, float("nan")
        self._config, self._folder, self._accelerator, self._on_record = config, folder, accelerator, on_record
        self._main, self._device = accelerator.is_main_process, accelerator.device
        self._pending: list[StepReport] = []
        self._book: Logbook | None = None
        self._in_row, self._undone, self._turns = 0, 0, 0
        self._clock = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Plain values that let another one go on."""
        return {"skipped": self.skipped, "seconds": self.seconds, "loss": self.last_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the one that gave the state.

        Raises:
            KeyError: it lacks something.
            OverflowError, TypeError, ValueError: something else stands there.
        """
        self.skipped, self.seconds, self.last_loss = (
            int(state["skipped"]),
            float(state["seconds"]),
            float(state["loss"]),
        )

    def go_back(self, state: Mapping[str, Any]) -> None:
        """Go on as the one that gave the state; the time since then is spent all the same."""
        seconds = self.seconds
        self.load_state_dict(state)
        self.seconds, self._in_row = seconds, 0

    def begin(self) -> None:
        """Open the trackers that the settings name."""
        if self._config.trackers:
            plain = self._config.model_dump(mode="json").items()
            flat = {key: value if isinstance(value, (int, float, str)) else json.dumps(value) for key, value in plain}
            self._accelerator.init_trackers(self._folder.name, config=flat)

    def open(self, *, done: int, turns: Sequence[Mapping[str, Any]]) -> None:
        """Begin or go on with the log, of which what is later than a step goes.

        Args:
            done: steps.
            turns: the records of all times that the run went back.
        """
        self._undone, self._turns = steps_undone(turns), len(turns)
        if not self._main:
            return
        if self._book is not None:
            self._book.close()
        self._book, self._course = (
            Logbook(self._folder / METRICS, steps_done=done),
            RunCourse(self._config.model_dump()),
        )
        for record in turns:
            if record not in self._book.kept:
                self._book.write(record)
        for record in self._book.kept:
            self._course.add(record)

    def close(self) -> None:
        """Close log and trackers."""
        if self._book is not None:
            self._book.close()
        if self._config.trackers:
            self._accelerator.end_training()

    def start_clock(self) -> None:
        """What happened since the last record, such as an evaluation, was no training."""
        self._clock = time.perf_counter()

    def add(self, report: StepReport) -> None:
        """Take in a report, reading nothing from the device."""
        self._pending.append(report)

    def write(self, trainer: Trainer) -> None:
        """Write what is pending: loss and terms are means over processes, all else is equal in all of them.

        Args:
            trainer: of the steps.

        Raises:
            DivergedError: too many steps in a row were skipped.
        """
        if not self._pending:
            return
        elapsed = time.perf_counter() - self._clock
        self.seconds += elapsed
        pairs = len(self._pending) * trainer.config.batch_size * trainer.config.accumulate
        for report, means in zip(self._pending, self._means(), strict=True):
            skipped = bool(report.clip.skip)
            self.skipped += skipped
            self.last_loss = means["loss"]
            record = {
                "step": report.step,
                **means,
                "grad_norm": float(report.clip.norm),
                "grad_threshold": float(report.clip.threshold),
                "grad_scale": float(report.clip.scale),
                "skipped": skipped,
                "lr": report.learning_rate,
                "logit_scale": float(trainer.encoder.logit_scale.detach()),
                "images_per_second": pairs / elapsed,
                "seconds": self.seconds,
            }
            self.record(record)
            self._in_row = self._in_row + 1 if skipped else 0
            if self._in_row >= self._config.max_skips:
                raise DivergedError(
                    f"step {report.step}: gradients were not finite for {self._in_row} steps in a row; the weights are "
                    f"those of the last good step. Lower the learning rate, {report.learning_rate:g} at this step, or "
                    "look at the batches before it"
                )
        self._pending.clear()
        self.start_clock()

    def record(self, record: dict[str, Any]) -> None:
        """Write one record, and tell of it."""
        if self._book is not None:
            self._book.write(record)
            self._course.add(record)
            self.tell(record)

    def tell(self, record: dict[str, Any]) -> None:
        """Show a record that is in the log already; trackers count undone steps too, so that none goes back."""
        if self._config.trackers:
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            if self._config.rollback is not None:
                numbers["rollbacks"] = float(self._turns)
                if "loss" in record:
                    numbers["run_step"] = float(record["step"])
            self._accelerator.log(numbers | record.get("eval", {}), step=record["step"] + self._undone)
        if self._on_record is not None:
            self._on_record(record)

    def name_signs(self, *, done: int) -> None:
        """Say what the course so far is a sign of, each sign once."""
        if self._book is not None and (signs := self._course.new_signs()):
            self.record({"step": done - 1, "signs": signs})

    def _means(self) -> list[dict[str, float]]:
        """Loss and terms of the pending steps, averaged over processes in one go."""
        named = [{"loss": report.loss, **report.terms} for report in self._pending]
        if self._accelerator.num_processes > 1:
            values = [value.to(self._device, torch.float64) for each in named for value in each.values()]
            means = iter(self._accelerator.reduce(torch.stack(values), reduction="mean").tolist())
            return [{name: next(means) for name in each} for each in named]
        return [{name: float(value) for name, value in each.items()} for each in named]
