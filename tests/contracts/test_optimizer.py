"""What every optimiser of ``OPTIMIZERS`` promises of its steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from optimizer_cases import (
    FORMS,
    OWN,
    Network,
    assert_equal,
    entries,
    give_gradients,
    make,
    optimizers,
    own,
    paths,
    run,
    weights,
)
from tether.core.errors import InputError
from tether.core.ranges import rules
from tether.optim import OPTIMIZERS, clip_and_step, optimizer_base, parameter_groups
from tether.optim.clip import GlobalNorm, NoClip
from tether.optim.optimizer_base import SparseGradientError


@optimizers
def test_moves_every_parameter_downhill(name: str) -> None:
    model = Network()
    before = weights(model)
    optimizer = make(name, parameter_groups(model, weight_decay=0.0))
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for old, new in zip(before, weights(model), strict=True):
        assert bool((new < old).all())


@optimizers
def test_groups_keep_names_and_scales_and_their_own_settings(name: str) -> None:
    model = Network()
    groups = parameter_groups(model, weight_decay=0.3)
    groups[1]["lr_scale"] = 0.1
    optimizer = make(name, groups)
    assert isinstance(optimizer, Optimizer)
    first, second = optimizer.param_groups
    assert (first["name"], second["name"], first["lr_scale"], second["lr_scale"]) == ("decay", "no_decay", 1.0, 0.1)
    assert (first["weight_decay"], second["weight_decay"]) == (0.3, 0.0)
    assert first["param_names"] == ["weight", "kernel"]
    before = weights(model)
    second["lr"] = 0.0  # what a schedule may do at any time
    run(model, optimizer, range(3))
    moved = [not torch.equal(old, new) for old, new in zip(before, weights(model), strict=True)]
    assert moved == [True, True, False, False]


@optimizers
def test_closure_is_called_once_with_gradients_and_its_loss_comes_back(name: str) -> None:
    model = Network()
    optimizer = make(name, model.parameters())
    called = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((parameter.square().sum() for parameter in model.parameters()), torch.zeros(()))
        loss.backward()
        called.append(float(loss.detach()))
        return loss

    before = weights(model)
    assert float(optimizer.step(closure).detach()) == called[0]
    assert len(called) == 1
    assert not any(torch.equal(old, new) for old, new in zip(before, weights(model), strict=True))


@paths
def test_a_parameter_without_gradient_rests(spec: str) -> None:
    model = Network()
    optimizer = make(spec, model.parameters())
    run(model, optimizer, range(4))
    before, state = model.weight.detach().clone(), entries(optimizer, model.weight)
    kernel = model.kernel.detach().clone()
    for step in range(4, 12):
        give_gradients(model, step)
        model.weight.grad = None
        optimizer.step()
    assert torch.equal(model.weight, before)
    if "square" in state:  # the one accumulator of all parameters
        state.pop("square")
    after = entries(optimizer, model.weight)
    assert all(torch.equal(value, after[key]) for key, value in state.items())
    assert not torch.equal(model.kernel, kernel)
    run(model, optimizer, range(12, 14))
    assert not torch.equal(model.weight, before)
    assert all(bool(value.isfinite().all()) for value in weights(model))


@paths
def test_without_any_gradient_nothing_happens(spec: str) -> None:
    model = Network()
    optimizer = make(spec, model.parameters())
    optimizer.step()
    run(model, optimizer, range(3))
    before, state = weights(model), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.zero_grad()
    optimizer.step()
    assert_equal(weights(model), before)
    for key, entry in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[key][name]) for name, value in entry.items())


@paths
def test_zero_gradients_from_the_first_step(spec: str) -> None:
    model = Network()
    before = weights(model)
    optimizer = make(spec, model.parameters(), weight_decay=0.0)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert_equal(weights(model), before)
    run(model, optimizer, range(8))
    for old, new in zip(before, weights(model), strict=True):
        assert bool(new.isfinite().all())
        assert not torch.equal(old, new)


@own
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [0, 4], ids=["first step", "later"])
def test_non_finite_gradients_leave_weights_and_state_alone(name: str, poison: float, steps: int) -> None:
    still = {  # what follows the count of calls, which the bad one is in
        "spam": {"reset_interval": 0, "threshold": 0.0},
        "stable_spam": {"reset_interval": 0, "total_steps": None},
    }.get(name, {})
    models = [Network(), Network()]
    bad, good = (make(name, model.parameters(), **still) for model in models)
    for model, optimizer in zip(models, (bad, good), strict=True):
        run(model, optimizer, range(steps))
    give_gradients(models[0], 50)
    for parameter in models[0].parameters():
        assert parameter.grad is not None
        parameter.grad[(0,) * parameter.ndim] = poison
    before = weights(models[0])
    state = {parameter: entries(bad, parameter) for parameter in models[0].parameters()}
    bad.step()
    assert_equal(weights(models[0]), before)
    for parameter, entry in state.items():
        for key, value in entry.items():
            assert torch.equal(bad.state[parameter][key], value), key
    for model, optimizer in zip(models, (bad, good), strict=True):
        run(model, optimizer, range(steps, steps + 4))
    for mine, theirs in zip(*map(weights, models), strict=True):
        assert torch.equal(mine, theirs)


@own
def test_one_bad_tensor(name: str) -> None:
    """An optimiser of single tensors leaves that one out; one with a common norm skips the step."""
    model = Network()
    optimizer = make(name, model.parameters())
    run(model, optimizer, range(3))
    before, state = weights(model), entries(optimizer, model.kernel)
    give_gradients(model, 3)
    assert model.kernel.grad is not None
    model.kernel.grad[0, 0, 0, 0] = math.nan
    optimizer.step()
    assert all(torch.equal(value, entries(optimizer, model.kernel)[key]) for key, value in state.items())
    moved = [not torch.equal(old, new) for old, new in zip(before, weights(model), strict=True)]
    assert moved == ([True, False, True, True] if name in ("spam", "stable_spam") else [False] * 4)


@optimizers
def test_sparse_gradients_are_refused(name: str) -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    expected, text = (SparseGradientError, "weight.*dense") if name in OWN else (RuntimeError, None)
    optimizer = make(name, [("weight", table.weight)])
    before = table.weight.detach().clone()
    with pytest.raises(expected, match=text):
        optimizer.step()
    assert torch.equal(table.weight, before)


@own
def test_complex_and_whole_numbers_are_refused(name: str) -> None:
    for value, kind in (
        (torch.zeros(2, dtype=torch.complex64), "complex"),
        (torch.zeros(2, dtype=torch.int64), "whole"),
    ):
        odd = nn.Parameter(value, requires_grad=False)
        with pytest.raises(InputError, match=f"odd: expected real numbers, got {kind}"):
            make(name, [("odd", odd)])
        optimizer = make(name, [("fine", nn.Parameter(torch.zeros(2)))])
        with pytest.raises(InputError, match=kind):
            optimizer.add_param_group({"params": [("odd", odd)]})
        assert len(optimizer.param_groups) == 1


@optimizers
def test_no_parameters(name: str) -> None:
    with pytest.raises(ValueError, match=r"at least one parameter|empty parameter list"):
        make(name, [])


@optimizers
def test_behind_a_clipper_in_one_call(name: str) -> None:
    models = [Network(), Network()]
    first, second = (make(name, model.parameters()) for model in models)
    for step in range(6):
        for model in models:
            give_gradients(model, step)
            if step == 4:
                model.bias.grad[0] = math.nan  # pyrefly: ignore
        together = clip_and_step(first, clipper=GlobalNorm(1.0), named_params=models[0].named_parameters(), step=step)
        apart = GlobalNorm(1.0).clip_(models[1].named_parameters(), step=step)
        if not apart.skip:
            second.step()
        assert bool(together.skip) == bool(apart.skip) == (step == 4)
    for mine, theirs in zip(*map(weights, models), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@optimizers
def test_after_a_clipper_that_only_measures(name: str) -> None:
    models = [Network(), Network()]
    first, second = (make(name, model.parameters()) for model in models)
    for step in range(6):
        for model in models:
            give_gradients(model, step)
        clip_and_step(first, clipper=NoClip(), named_params=models[0].named_parameters(), step=step)
        second.step()
    assert_equal(*map(weights, models))


@own
def test_gradients_are_left_alone(name: str) -> None:
    model = Network()
    optimizer = make(name, model.parameters())
    for step in range(9):
        give_gradients(model, step)
        before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        assert_equal(before, [p.grad for p in model.parameters() if p.grad is not None])


@own
def test_a_gradient_in_another_layout_than_its_parameter(name: str) -> None:
    models = [Network(), Network()]
    first, second = (make(name, model.parameters()) for model in models)
    for step in range(8):
        for model in models:
            give_gradients(model, step)
        models[1].kernel.grad = models[1].kernel.grad.contiguous()  # pyrefly: ignore
        first.step()
        second.step()
    for mine, theirs in zip(*map(weights, models), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


class Waits(TorchDispatchMode):
    """Counts how often a tensor's value is read, other than a whole number's."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        reads = func == torch.ops.aten._local_scalar_dense.default
        self.count += reads and args[0].dtype != torch.int64  # the counts of calls lie on the CPU always
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", [*OWN, *FORMS])
def test_the_way_of_an_accelerator_is_the_same_and_reads_nothing(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no device whose values the host may read, all decisions are made in tensors, as on an accelerator."""

    def path() -> tuple[list[Tensor], int]:
        model = Network()
        optimizer = make(spec, parameter_groups(model, weight_decay=0.1))
        with Waits() as waits:
            for step in range(14):
                give_gradients(model, step)
                if step in (2, 8):
                    assert model.bias.grad is not None
                    model.bias.grad[1] = math.nan
                optimizer.step()
        return weights(model), waits.count

    plain, _ = path()
    monkeypatch.setattr(optimizer_base, "HOST", frozenset())
    blind, count = path()
    for mine, theirs in zip(plain, blind, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-7)
    assert count == 0


@optimizers
def test_settings_of_a_group_have_the_ranges_of_the_constructor(name: str) -> None:
    optimizer = OPTIMIZERS[name](Network().parameters())
    for key in rules(OPTIMIZERS[name].__init__).keys() & optimizer.defaults.keys():
        with pytest.raises(InputError, match=f"{type(optimizer).__name__}: {key}: expected .*, got 'other'"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], key: "other"})
    assert len(optimizer.param_groups) == 1


def test_one_accumulator_needs_one_mode_and_one_start() -> None:
    optimizer = OPTIMIZERS["clip_radagrad_d"](Network().parameters())
    for settings in ({"mode": "coordinate"}, {"b0": 2.0}):
        with pytest.raises(InputError, match="the same in every group"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], **settings})
