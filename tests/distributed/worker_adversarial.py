"""One of two gloo processes: a critic and a generator on half batches, against one process on the whole ones."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.methods.wgan_gp.step import AdversarialPair, CriticStep, GeneratorStep
from tether.optim.clip import GlobalNorm
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Constant

ROWS, STEPS, PARTS = 6, 5, 2


def pair(seed: int) -> AdversarialPair:
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)]
    return AdversarialPair(nn.Linear(2, 3), nn.Sequential(*layers)).double()


def batches(rows: slice):
    draw = torch.Generator().manual_seed(0)
    while True:
        real, noise = (torch.randn(ROWS, width, generator=draw, dtype=torch.float64) for width in (3, 2))
        alpha = torch.rand(ROWS, generator=draw, dtype=torch.float64)
        words = torch.zeros(ROWS, 0, dtype=torch.int64)
        yield Batch(real[rows], words[rows], {"noise": noise[rows], "alpha": alpha[rows]})


def train(model: AdversarialPair, rows: slice) -> AdversarialPair:
    def player(step, module: nn.Module, **when: int) -> Player:
        groups = [{"params": list(module.parameters()), "initial_lr": 1e-2}]
        return Player(
            step,
            torch.optim.Adam(groups, lr=1e-2),
            list(module.named_parameters()),
            Constant(),
            GlobalNorm(1.0),
            **when,
        )

    fit(
        model,
        [player(GeneratorStep(), model.generator, every=2, first=1), player(CriticStep(), model.critic)],
        batches(rows),
        start=0,
        steps=STEPS,
        accumulate=PARTS,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=lambda report: None,
    )
    return model


def check() -> None:
    rank, alone, shared = dist.get_rank(), train(pair(seed=0), slice(None)), pair(seed=dist.get_rank())
    shared.share_gradients_()
    train(shared, slice(rank * ROWS // 2, (rank + 1) * ROWS // 2))
    for (name, mine), whole in zip(shared.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
