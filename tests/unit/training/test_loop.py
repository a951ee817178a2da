"""The loop by itself: two players, accumulation, skipped steps; and that it knows no method."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from tether.core.gather import LOCAL
from tether.core.types import Batch, Loss
from tether.losses import OBJECTIVES
from tether.optim import OPTIMIZERS
from tether.optim.clip import CLIPPERS
from tether.training import loop
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import SCHEDULES, Constant
from tether.training.steps import STEPS
from tether_lab.papers import CARDS


class Pull:
    """Pulls one parameter toward the mean of the batch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model, batch, *, step, gather):
        return Loss((model.get_parameter(self.name) - batch.image.mean()).square().sum(), {})


def player(model: nn.Module, name: str, **settings) -> Player:
    parameter = model.get_parameter(name)
    optimizer = torch.optim.SGD([{"params": [parameter], "initial_lr": 0.25}], lr=0.25)
    return Player(Pull(name), optimizer, [(name, parameter)], Constant(), CLIPPERS["none"](), **settings)


def run(model: nn.Module, players, batches, *, steps: int, accumulate: int = 1):
    reports = []
    fit(
        model,
        players,
        batches,
        start=0,
        steps=steps,
        accumulate=accumulate,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=reports.append,
    )
    return reports


def two() -> nn.Module:
    model = nn.Module()
    model.first, model.second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    return model


def constant(value: float):
    return (Batch(torch.full((1,), value), torch.zeros(1, 1, dtype=torch.int64)) for _ in count())


def test_two_players_move_their_own_parameters_at_their_own_pace():
    model = two()
    reports = run(model, [player(model, "first"), player(model, "second", every=2)], constant(1.0), steps=4)
    assert model.first.item() == pytest.approx(1 - 0.5**4)
    assert model.second.item() == pytest.approx(1 - 0.5**2)
    assert [report.step for report in reports] == [0, 0, 1, 2, 2, 3]


def test_a_player_may_start_late():
    model = two()
    late = player(model, "second", every=2, first=1)
    reports = run(model, [late, player(model, "first")], constant(1.0), steps=4)
    assert [report.step for report in reports] == [0, 1, 2, 2, 3]
    assert model.second.item() == pytest.approx(0.5)


class PullBoth:
    """A loss that reaches the parameters of both players."""

    def __call__(self, model, batch, *, step, gather):
        return Loss((model.first + model.second - batch.image.mean()).square().sum(), {})


def test_what_one_player_leaves_on_the_others_parameters_is_cleared():
    model = two()
    other = player(model, "second")
    both = Player(
        PullBoth(), player(model, "first").optimizer, [("first", model.first)], Constant(), CLIPPERS["none"]()
    )
    run(model, [both, other], constant(1.0), steps=1)
    assert model.first.item() == pytest.approx(0.5)
    assert model.second.item() == pytest.approx(0.5)


def test_accumulated_batches_are_averaged():
    model = two()
    values = (Batch(torch.full((1,), float(i % 2)), torch.zeros(1, 1, dtype=torch.int64)) for i in count())
    run(model, [player(model, "first")], values, steps=1, accumulate=2)
    assert model.first.item() == pytest.approx(0.25)


def test_a_step_that_is_not_finite_moves_nothing_and_is_reported():
    model = two()
    values = iter([1.0, float("nan"), 1.0])
    batches = (Batch(torch.full((1,), value), torch.zeros(1, 1, dtype=torch.int64)) for value in values)
    reports = run(model, [player(model, "first")], batches, steps=3)
    assert [bool(report.clip.skip) for report in reports] == [False, True, False]
    assert model.first.item() == pytest.approx(0.75)


def test_the_loop_is_short_and_knows_no_method():
    text = Path(loop.__file__).read_text(encoding="utf-8").lower()
    assert len(text.splitlines()) <= 160
    names = {*OBJECTIVES, *OPTIMIZERS, *CLIPPERS, *SCHEDULES, *STEPS, *CARDS} - {"none", "clip", "constant"}
    words = {word for name in names for word in (name, name.replace("-", "_"))}
    assert not [word for word in words if re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", text)]
