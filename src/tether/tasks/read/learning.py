"""Readers learn by one loop, from rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.types import Batch, Loss
from tether.models.train_mode import at_rest
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.tensor_batches import TensorBatches
from tether.training.tuning import Tuning, play

_WARMUP = 0.075  # of the steps, as released


class _ReadStep:
    """A loss of a batch and of draws that depend on the seed and the step alone; a ``core.protocols.Step``."""

    def __init__(self, loss: Callable[[Batch, torch.Generator], Tensor], *, seed: int) -> None:
        self._loss, self._seed = loss, seed

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; the model that is given is not looked at."""
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self._seed, salt="orders") >> 1)
        return Loss(self._loss(batch, generator))


def learn_(
    reader: nn.Module,
    loss: Callable[[Batch, torch.Generator], Tensor],
    rows: Mapping[str, Tensor],
    *,
    moves: Sequence[nn.Parameter],
    training: Sequence[nn.Module],
    steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    folder: Path | None,
    on_step: Callable[[StepReport], None] | None,
    should_stop: Callable[[], bool],
) -> None:
    """Let a reader learn; it is in eval mode afterwards and asks for gradients where it did before.

    Args:
        reader: that learns.
        loss: of a batch of rows; the generator draws orders.
        rows: see ``TensorBatches``.
        moves: parameters that learn.
        training: parts that are in training mode.
        steps: of AdamW.
        batch_size: rows of a step.
        learning_rate: after the warm-up; it falls to 0 as a cosine.
        weight_decay: see ``optim.parameter_groups``.
        seed: of all draws.
        folder: of checkpoints, or None.
        on_step: told each step.
        should_stop: asked after each step.
    """
    with at_rest(reader):
        for one in moves:
            one.requires_grad_(True)
        tuning = Tuning[None](
            step=_ReadStep(loss, seed=seed),
            batches=TensorBatches(rows, batch_size=batch_size, seed=seed),
            steps=steps,
            optimizer={"name": "adamw", "lr": learning_rate, "betas": (0.9, 0.98), "eps": 1e-6},
            weight_decay=weight_decay,
            schedule=Cosine(warmup=int(_WARMUP * steps)),
            training=list(training),
        )
        play(tuning, reader, folder=folder, seed=seed, on_step=on_step, should_stop=should_stop)
    reader.eval()
