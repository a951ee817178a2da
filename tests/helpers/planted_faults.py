"""Batches that go bad at chosen places of the data, in one process alone; the place counts, not the step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch

from tether.core.errors import StoppedError
from tether.core.types import Batch, Loss
from tether.data.loader import Loader
from tether.training import load_config, train
from tether.training import run as run_module
from tether.training import trainer as trainer_module
from tether.workflows.edits import EDITS

_WHITE = 255


class FaultyLoader(Loader):
    """Batches at the places PLACES are white in process RANK."""

    places: ClassVar[range] = range(0)
    spoiled: ClassVar[int] = 0

    def __init__(self, *arguments: Any, rank: int = 0, **settings: Any) -> None:
        super().__init__(*arguments, rank=rank, **settings)
        self._here = rank == type(self).spoiled

    @property
    def place(self) -> int:
        """Batches handed out."""
        return self._position.epoch * (self.batches_per_epoch or 0) + self._position.batch

    def __next__(self) -> Batch:
        place = self.place
        batch = super().__next__()
        if not self._here or place not in self.places:
            return batch
        return Batch(torch.full_like(batch.image, _WHITE), batch.text, batch.extra)


class LeapingLoader(FaultyLoader):
    """Passes over the places GAP, once."""

    gap: ClassVar[range] = range(0)

    def __next__(self) -> Batch:
        if self.gap and self.place == self.gap.start:
            for _ in self.gap:
                super().__next__()
        return super().__next__()


@contextlib.contextmanager
def spoilt(factor: float) -> Iterator[None]:
    """Within, the loss of a white batch is so many times what it is, whatever the step."""
    build = trainer_module.build_step

    def build_spoilt(*arguments: Any, **settings: Any) -> Any:
        step = build(*arguments, **settings)
        kind = type(step)

        def call(self: Any, model: Any, batch: Batch, **more: Any) -> Loss:
            loss = kind.__call__(self, model, batch, **more)
            return Loss(loss.total * factor, loss.terms) if bool((batch.image == _WHITE).all()) else loss

        step.__class__ = type(kind.__name__, (kind,), {"__call__": call})
        return step

    with mock.patch.object(trainer_module, "build_step", build_spoilt):
        yield


def loader_of(kind: type[FaultyLoader], **values: Any) -> type[FaultyLoader]:
    """The class with other places."""
    return type(kind.__name__, (kind,), values)


def faulty_run(folder: Path, settings: list[str], *, factor: float, loader: type[Loader], stop_after: int = 0) -> None:
    """A run of a process; asked to stop after so many steps, it does and leaves a checkpoint."""
    rank = int(os.environ.get("RANK", "0"))
    last = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1
    asked: list[None] = []
    seen: list[Any] = []

    def should_stop() -> bool:
        asked.append(None)
        return last and len(asked) == stop_after

    class Seen(run_module._Run):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            seen.append(self)

    with spoilt(factor), mock.patch.object(run_module, "_Run", Seen), contextlib.suppress(StoppedError):
        train(
            load_config(overrides=settings),
            folder=folder,
            resume=folder.exists(),
            edits=EDITS,
            should_stop=should_stop,
            make_loader=loader,
        )
    (run,) = seen
    digest = hashlib.sha256()
    for name, tensor in sorted(run.trainer.model_tensors().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    went = [{key: value for key, value in one["rollback"].items() if key != "losses"} for one in run.states.records]
    told = {"weights": digest.hexdigest(), "records": went}
    (folder / f"rank-{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def killed_run(folder: Path, settings: list[str], factor: float, places: range, call: str, late: bool) -> None:
    """A run whose process is killed when it calls that function of ``training.run``: before, or ``late``, after it."""
    inner = getattr(run_module, call)

    def last_call(*arguments: Any, **more: Any) -> None:
        if late:
            inner(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(run_module, call, last_call):
        faulty_run(folder, settings, factor=factor, loader=loader_of(FaultyLoader, places=places))


def launch_faulty(folder: Path, settings: list[str], stop_after: int, factor: float) -> None:
    """One process of several; the fault is in the last one alone, for two batches."""
    loader = loader_of(FaultyLoader, places=range(7, 9), spoiled=int(os.environ.get("WORLD_SIZE", "1")) - 1)
    faulty_run(folder, settings, factor=factor, loader=loader, stop_after=stop_after)
