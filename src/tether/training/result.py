"""What a finished run leaves in numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.training.run_files import SUMMARY


@dataclass(frozen=True)
class Result:
    """What a finished run leaves in ``summary.json``; ``metrics`` are the last evaluation's.

    Attributes:
        steps: optimiser steps, skipped ones included.
        skipped: steps whose gradients were not finite.
        seconds: wall time of training, without evaluations and checkpoints.
        images_per_second: over all of it.
        loss: of the last step.
        metrics: the last evaluation.
        rollbacks: how often the run went back to an earlier state.
    """

    steps: int
    skipped: int
    seconds: float
    images_per_second: float
    loss: float
    metrics: dict[str, float]
    rollbacks: int = 0


def read_result(folder: Path) -> Result:
    """The result of a finished run, from its ``summary.json``.

    Raises:
        InputError: no such file, or not what a run writes.
    """
    values = read_json(folder / SUMMARY)
    own = {field.name for field in fields(Result)} - {"metrics"}
    if isinstance(values, dict):
        values.setdefault("rollbacks", 0)  # runs of before the setting
    numbers = isinstance(values, dict) and all(isinstance(value, (int, float)) for value in values.values())
    if not numbers or not own <= values.keys():
        raise InputError(f"{folder / SUMMARY}: expected numbers named {', '.join(sorted(own))} and those of a test")
    metrics = {key: value for key, value in values.items() if key not in own}
    return Result(**{key: values[key] for key in own}, metrics=metrics)
