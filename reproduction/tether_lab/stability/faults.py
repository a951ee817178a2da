"""What goes wrong, as data: each fault is a row of values that the training loop of the bench obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PLANTED = (0.3, 0.45, 0.6, 0.75)
"""Shares of the run at which the faults of single steps are planted; the last leaves a quarter to recover in."""

Contents = Literal["whole", "noise", "swapped"]
Precision = Literal["fp32", "bf16", "int4"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        says: what happens, in words for the page.
        where: ``steps``, at the planted steps only, or ``run``, from the first step to the last.
        loss_factor: multiplies the loss of the planted steps, and with it every gradient.
        contents: of the planted batches: as they are, noise, or with wrong partners.
        gradient_factor: multiplies the gradient of one tensor at the planted steps.
        rate_factor: multiplies the learning rate of the whole run.
        in_a_row: steps from each planted one on at which it strikes.
        precision: of weights, gradients and optimiser state (``bf16``), or of every linear layer's weights and inputs
            (``int4``, simulated).
    """

    says: str
    where: Literal["steps", "run"]
    loss_factor: float = 1.0
    contents: Contents = "whole"
    gradient_factor: float = 1.0
    rate_factor: float = 1.0
    in_a_row: int = 1
    precision: Precision = "fp32"

    def planted(self, steps: int) -> tuple[int, ...]:
        """The steps of a run of this length at which it strikes; none when it concerns the whole run."""
        if self.where == "run":
            return ()
        first = sorted({int(share * steps) for share in PLANTED})
        return tuple(sorted({step + later for step in first for later in range(self.in_a_row) if step + later < steps}))


FAULTS: Mapping[str, Fault] = {
    "clean": Fault("nothing goes wrong: what does a guard cost?", where="run"),
    "scaled_loss": Fault("the loss of four steps is 100 times too large", where="steps", loss_factor=100.0),
    "noise": Fault(
        "four times, three batches in a row are noise: random pixels, random characters",
        where="steps",
        contents="noise",
        in_a_row=3,
    ),
    "swapped": Fault(
        "four times, every partner is wrong in three batches in a row: captions of other images, shuffled targets",
        where="steps",
        contents="swapped",
        in_a_row=3,
    ),
    "tensor_x1000": Fault(
        "at four steps the gradient of one weight matrix is 1,000 times too large", where="steps", gradient_factor=1e3
    ),
    "rate_x3": Fault("the learning rate is three times too high, all along", where="run", rate_factor=3.0),
    "bf16": Fault("weights, gradients and optimiser state are bfloat16, all along", where="run", precision="bf16"),
    "int4": Fault(
        "every linear layer computes with weights and inputs rounded to 4-bit integers, all along",
        where="run",
        precision="int4",
    ),
}
"""Every fault by name, in the order of the page."""
