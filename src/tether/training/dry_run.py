"""A run's first steps, taken for nothing but to see that everything fits and what it will cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from accelerate import Accelerator

from tether.core.device import chosen_device
from tether.core.gather import process_gather
from tether.core.protocols import ModelEdit
from tether.data import open_source
from tether.models.encoders.tower_parts import Side
from tether.training.config import RunConfig
from tether.training.epochs import MANY_EPOCHS, steps_per_epoch
from tether.training.locked_towers import KeptTowers
from tether.training.loop import StepReport
from tether.training.parts import check_parts
from tether.training.trainer import Trainer

_STEPS = 3


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would cost.

    Attributes:
        steps: of the run.
        images: rows with an image and a caption that can be used, or None when they are streamed.
        epochs: passes over them, or None.
        parameters: of the model.
        trained: of these, how many learn.
        kept: sides whose tower rests and whose rows are kept in the feature cache.
        device: where it would run.
        seconds: of the run, roughly, without evaluations.
    """

    steps: int
    images: int | None
    epochs: float | None
    parameters: int
    trained: int
    kept: tuple[Side, ...]
    device: str
    seconds: float

    def lines(self) -> Iterator[str]:
        """One fact a line."""
        if self.images is not None and self.epochs is not None:
            yield f"{self.images:,} images with captions, {self.epochs:.3g} epochs in {self.steps:,} steps"
            if self.epochs > MANY_EPOCHS:
                yield f"more than {MANY_EPOCHS} epochs: the model is likely to learn these pairs by heart"
        yield f"{self.parameters:,} parameters, {self.trained:,} of them learn"
        for side in self.kept:
            yield f"the {side} tower rests: it computes each row once, into the cache, for this run and others"
        yield f"on {self.device}, about {max(1, round(self.seconds)):,} s without evaluations"


def dry_run(config: RunConfig, *, device: str = "auto", edits: Mapping[str, type[ModelEdit]]) -> DryRun:
    """Build the first stretch of a run, open its sources, take three steps, and throw it away.

    Raises:
        InputError: what ``train`` would refuse.
    """
    plan = check_parts(config, edits, where="settings")
    if config.evaluate is not None:
        open_source(config.evaluate.source, where="settings: evaluate.source")
    chosen = Accelerator(cpu=chosen_device(device).type == "cpu").device
    times = [time.perf_counter()]

    def on_step(report: StepReport) -> None:
        float(report.loss)  # waits for the device
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            plan,
            0,
            checkpoint=None,
            folder=Path(folder),
            device=chosen,
            gather=process_gather(),
            edits=edits,
            where="settings",
        )
        steps = min(_STEPS, plan[0].end)
        try:
            trainer.fit(start=0, end=steps, on_step=on_step)
        finally:
            trainer.loader.close()
    each = min(after - before for before, after in pairwise(times))
    parameters = list(trainer.encoder.parameters())
    rows, kept = trainer.loader.rows, trainer.module.kept
    return DryRun(
        steps=config.steps,
        images=rows,
        epochs=None if rows is None else config.steps / steps_per_epoch(config, rows),
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        kept=tuple(sorted(kept.encoder.kept)) if isinstance(kept, KeptTowers) else (),
        device=str(chosen),
        seconds=each * config.steps,
    )
