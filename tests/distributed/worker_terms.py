"""One process of a run whose step tells its rank, and whose loss in the last process is not a number at step 2."""

import sys
from pathlib import Path

import torch

from tether.core.types import Loss
from tether.train import load_config, train
from tether.train.steps import STEPS
from tether.train.steps.presets import ContrastiveStep


class Ranked(ContrastiveStep):
    def __init__(self, objective, *, steps: int, seed: int) -> None:
        super().__init__(objective, steps=steps, seed=seed)

    def __call__(self, model, batch, *, step, gather):
        loss = super().__call__(model, batch, step=step, gather=gather)
        total = loss.total * float("nan") if step == 2 and gather.rank == gather.world - 1 else loss.total
        return Loss(total, {**loss.terms, "rank": torch.tensor(float(gather.rank))})


if __name__ == "__main__":
    STEPS["ranked"] = Ranked  # pyrefly: ignore
    train(load_config(overrides=sys.argv[2:]), folder=Path(sys.argv[1]))
