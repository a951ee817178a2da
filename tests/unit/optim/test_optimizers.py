"""Parameter groups, fused kernels, and clipping folded into them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.methods.stable_spam.stable_spam import ada_clip, ada_norm, clip_entries, maxima
from tether.optim import OPTIMIZERS, SGD, AdamW, clip_and_step, parameter_groups
from tether.optim.clip import GlobalNorm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def differentiate(model: nn.Module, step: int, *, size: float = 1.0) -> None:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    (model(rows).square().sum() * size).backward()


def test_groups_split_by_dimension_and_carry_names() -> None:
    model = network()
    model[0].bias.requires_grad_(False)
    model.scale = nn.Parameter(torch.tensor(1.0))
    decay, plain = parameter_groups(model, weight_decay=0.3)
    assert [name for name, _ in decay["params"]] == ["0.weight", "2.weight"]
    assert [name for name, _ in plain["params"]] == ["scale", "1.weight", "1.bias", "2.bias"]
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert (decay["lr_scale"], decay["name"], plain["name"]) == (1.0, "decay", "no_decay")
    optimizer = AdamW(parameter_groups(model, weight_decay=0.3))
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "2.weight"]


def test_groups_refuse_nothing() -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), weight_decay=0.0)


def test_tied_parameters_stand_once_and_empty_groups_go() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    (group,) = parameter_groups(model, weight_decay=0.1)
    assert [name for name, _ in group["params"]] == ["0.weight"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_is_one_that_float32_holds(name: str) -> None:
    groups = parameter_groups(network(), weight_decay=0.1)
    with pytest.raises(InputError, match=r"lr: expected a number in .0, 1e\+30\), got 1e\+300"):
        build({"name": name, "lr": 1e300}, OPTIMIZERS, where="test", params=groups)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_made_from_words(name: str) -> None:
    groups = parameter_groups(network(), weight_decay=0.1)
    optimizer = build({"name": name, "lr": 0.5}, OPTIMIZERS, where="test", params=groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(group["lr"] == 0.5 for group in optimizer.param_groups)
    if name in ("adamw", "sgd"):
        assert all(group["fused"] for group in optimizer.param_groups)
    with pytest.raises(InputError, match="unknown key 'learning'"):
        build({"name": name, "learning": 1}, OPTIMIZERS, where="test", params=groups)


def test_parameters_that_cannot_be_fused_are_moved_all_the_same() -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = AdamW([parameter], lr=0.1, weight_decay=0.0)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not optimizer.param_groups[0]["fused"]
    assert (parameter.real < 1).all()


@pytest.mark.parametrize("rule", ["heavy_ball", "nesterov"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs(rule: str, momentum: float) -> None:
    ours, theirs = network(), network()
    mine = SGD(ours.parameters(), lr=0.01, momentum=momentum, momentum_rule=rule)  # pyrefly: ignore
    other = torch.optim.SGD(
        theirs.parameters(), lr=0.01, momentum=momentum, nesterov=rule == "nesterov" and momentum > 0, foreach=False
    )
    for step in range(4):
        for model, optimizer in ((ours, mine), (theirs, other)):
            differentiate(model, step)
            optimizer.step()
    for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(first, second)


def test_folding_is_not_used_when_the_optimiser_moves_other_parameters() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.0)
    differentiate(model, 0)
    last = model[2].bias.grad.clone()
    before = model[2].bias.detach().clone()
    clip_and_step(optimizer, clipper=GlobalNorm(1e-3), named_params=model[0].named_parameters(), step=0)
    torch.testing.assert_close(model[2].bias, before - last)


@pytest.mark.parametrize("form", [float, torch.tensor], ids=["number", "tensor"])
def test_the_largest_entry_lands_on_the_limit_and_smaller_ones_keep_their_place(form) -> None:
    gradient = torch.tensor([[4.0, -8.0, 1.0], [-2.0, 0.0, 2.5]])
    before = gradient.clone()
    clipped = clip_entries(gradient, largest=form(8.0), limit=form(2.0))
    torch.testing.assert_close(clipped, torch.tensor([[1.0, -2.0, 1.0], [-2.0, 0.0, 0.625]]))
    assert torch.equal(gradient, before)
    for limit in (8.0, 9.0, torch.inf):
        assert torch.equal(clip_entries(gradient, largest=form(8.0), limit=form(limit)), gradient)
    zeros = torch.zeros(3)
    assert torch.equal(clip_entries(zeros, largest=form(0.0), limit=form(0.0)), zeros)


def test_ada_clip_and_ada_norm_of_constant_gradients() -> None:
    """Corrected for their start at zero, the means of a constant are the constant, so the length is 1."""
    size = torch.tensor([3.0, 0.5], dtype=torch.float64)
    largest_mean = norm_mean = square = torch.zeros(2, dtype=torch.float64)
    for count in range(1, 6):
        step = torch.full((2,), float(count), dtype=torch.float64)
        largest_mean, limit = ada_clip(size, mean=largest_mean, step=step, gamma=0.99)
        torch.testing.assert_close(limit, size)
        norm_mean, square, length = ada_norm(
            size, mean=norm_mean, square=square, step=step, gamma1=0.7, gamma2=0.9, eps=0.0
        )
        torch.testing.assert_close(length, torch.ones(2, dtype=torch.float64))
    _, limit = ada_clip(size * 10, mean=largest_mean, step=step + 1, gamma=0.99)
    assert bool((limit < size * 3).all())


def test_largest_entries_by_absolute_value() -> None:
    parts = [
        torch.tensor([[1.0, -3.0], [2.0, 0.5]]),
        torch.tensor(-0.25),
        torch.empty(0, 4),
        torch.tensor([0.0, 7.0]).bfloat16(),
        torch.arange(6.0, dtype=torch.float64).view(2, 3).t(),
    ]
    got = maxima(parts, shards=[()] * len(parts))
    assert got.dtype == torch.float64
    assert got.tolist() == [3.0, 0.25, 0.0, 7.0, 5.0]


def test_what_is_not_finite_shows() -> None:
    got = maxima([torch.tensor([1.0, math.nan]), torch.tensor([-math.inf, 1.0]), torch.ones(2)], shards=[()] * 3)
    assert got.isfinite().tolist() == [False, False, True]
    assert got[0].isnan()
