"""One process of a training run."""

import contextlib
import os
from pathlib import Path

import torch

from tether.core.errors import StoppedError
from tether.core.types import Loss
from tether.training import load_config, train
from tether.training.steps import STEPS
from tether.training.steps.presets import ContrastiveStep
from tether.workflows.edits import EDITS


def launch(folder: Path, settings: list[str], stop_after: int) -> None:
    """The last process alone is asked to stop after so many steps; if the run is there, it goes on."""
    last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    asked = []

    def should_stop() -> bool:
        asked.append(None)
        return last and len(asked) == stop_after

    with contextlib.suppress(StoppedError):
        train(
            load_config(overrides=settings),
            folder=folder,
            resume=folder.exists(),
            edits=EDITS,
            should_stop=should_stop,
        )


class Ranked(ContrastiveStep):
    """Tells its rank, and its loss in the last process is not a number at step 2."""

    def __init__(self, objective, *, steps: int, seed: int) -> None:
        super().__init__(objective, steps=steps, seed=seed)

    def __call__(self, model, batch, *, step, gather):
        loss = super().__call__(model, batch, step=step, gather=gather)
        total = loss.total * float("nan") if step == 2 and gather.rank == gather.world - 1 else loss.total
        return Loss(total, {**loss.terms, "rank": torch.tensor(float(gather.rank))})


def launch_ranked(folder: Path, settings: list[str], stop_after: int) -> None:
    STEPS._members["ranked"] = f"{Ranked.__module__}:Ranked"
    launch(folder, settings, stop_after)
