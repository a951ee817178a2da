"""How even the gradients of the character model are over its depth, in the middle of a run of 300 steps."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm import CharModel, CharStepReport

STEPS, JUDGED = 300, range(140, 160)
"""Steps of a run, and those over which ratios are averaged."""


@dataclass(frozen=True, slots=True)
class DepthRun:
    """What a run showed.

    Attributes:
        log_ratio: mean over the judged steps of ``log_ratio``, whose signs may cancel.
        unevenness: mean over the same steps of its absolute value; 0 is even.
        validation: cross-entropy at the end, in nats per character.
    """

    log_ratio: float
    unevenness: float
    validation: float


def train(lab: Lab, model: CharModel, *, learning_rate: float | None = None) -> DepthRun:
    """Train in place; how even gradients were in the middle of the run, and the validation loss.

    Args:
        lab: its seed decides the batches.
        model: to train.
        learning_rate: the test bed's own if None.
    """
    from tether_lab.worlds import char_lm

    ratios: list[float] = []

    def look(report: CharStepReport) -> None:
        if lab.smoke or report.step in JUDGED:
            ratios.append(log_ratio(report))

    done = char_lm.train(
        model,
        seed=lab.seed,
        steps=lab.steps(STEPS, 2),
        learning_rate=learning_rate,
        batch=lab.steps(char_lm.BATCH, 4),
        validation=lab.steps(char_lm.VALIDATION_BATCHES, 1),
        on_step=look,
    )
    return DepthRun(statistics.fmean(ratios), statistics.fmean(map(abs, ratios)), done.validation)


def log_ratio(report: CharStepReport) -> float:
    """Log of the norm of the first block's feed-forward gradients over that of the last's."""
    squares = [
        sum(
            float(layer.weight.grad.square().sum()) for layer in (block.up, block.down) if layer.weight.grad is not None
        )
        for block in (report.model.stack[0], report.model.stack[-1])
    ]
    return 0.5 * math.log(squares[0] / squares[1])
