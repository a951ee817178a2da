"""What every optimiser of ``OPTIMIZERS`` promises."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.ranges import rules
from tether.optim import OPTIMIZERS, clip_and_step, optimizer_base, parameter_groups
from tether.optim.clip import GlobalNorm, NoClip
from tether.optim.optimizer_base import SparseGradientError, Stepper
from tether.train import load_config, train
from tether.train.parallel import load_optimizer_tensors, optimizer_tensors

SETTINGS: dict[str, dict[str, Any]] = {
    "spam": {"reset_interval": 6, "warmup_steps": 2, "accumulate_steps": 2, "threshold": 3.0},
    "stable_spam": {"reset_interval": 5, "total_steps": 30, "amsgrad": True},
    "clip_radagrad_d": {"lr": 0.05, "clip": 0.5},
}
"""So that resets, caps and limits happen within a few steps; the others run as they are."""
TORCH_OWN = "torch's own class: a clipper, even NoClip, skips the step before it is asked"
EXCEPTIONS: dict[str, dict[str, str]] = {
    "adamw": {
        "leaves non-finite gradients alone": TORCH_OWN,
        "refuses complex and whole numbers": "torch moves complex parameters, and whole numbers never have a gradient",
        "keeps wide figures": "torch's moments have the parameter's dtype",
        "checks a state": "torch checks the number of parameters only",
        "waits for nothing": "torch's own kernel",
    },
}
EXCEPTIONS["sgd"] = EXCEPTIONS["adamw"]
ADAMS, ADAGRADS = {"adamw", "clip_adam", "clip_adam_d"}, {"clip_adagrad", "clip_adagrad_d"}
ENTRIES_ALIKE = {name: group for group in (ADAMS, ADAGRADS) for name in group}
"""Optimisers that remember entries of the same names; only their settings tell their states apart."""
FORMS = {
    "norm": {"name": "clip_radagrad_d", "lr": 0.05},
    "coordinate, element": {"name": "clip_radagrad_d", "mode": "coordinate", "clip_scope": "element", "clip": 0.05},
    "norm, element": {"name": "clip_radagrad_d", "clip_scope": "element", "clip": 0.05, "delayed": False},
    "previous": {"name": "clip_adagrad_d", "direction": "previous", "v0": 0.01},
    "bias correction": {"name": "clip_adam_d", "bias_correction": True, "clip_scope": "global"},
    "clean": {"name": "stable_spam", "reset_mode": "clean", "reset_interval": 4, "inplace_grad": True},
    "never reset": {
        "name": "spam",
        "reset_interval": 0,
        "accumulate_steps": 1,
        "threshold": 2.0,
        "cap_mode": "clean",
        "inplace_grad": True,
    },
}
"""Settings that take another path through a part than its defaults."""

optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
# Promises that the exceptions above are about.
own = pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in EXCEPTIONS])
paths = pytest.mark.parametrize("spec", [*OPTIMIZERS, *FORMS])


def make(name: str, params: Any, **more: Any) -> Optimizer:
    spec = FORMS.get(name) or {"name": name, **SETTINGS.get(name, {})}
    return build({**spec, **more}, OPTIMIZERS, where="test", params=params)


class Network(nn.Module):
    """A matrix, a strided kernel, vectors and a scalar."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator).to(dtype))
        kernel = torch.randn(3, 2, 2, 2, generator=generator).to(dtype).to(memory_format=torch.channels_last)
        self.kernel = nn.Parameter(kernel)
        self.bias = nn.Parameter(torch.randn(5, generator=generator).to(dtype))
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=dtype))


def give_gradients(model: nn.Module, step: int, *, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        draw = torch.randn(parameter.shape, generator=generator) * size * (20.0 if step % 7 == 3 else 1.0)
        parameter.grad = torch.empty_like(parameter).copy_(draw)  # in the parameter's layout, as autograd has it


def run(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_equal(left: list[Tensor], right: list[Tensor]) -> None:
    for mine, theirs in zip(left, right, strict=True):
        assert torch.equal(mine, theirs)


def entries(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """A copy of a parameter's state, without the clock, which counts calls whatever the gradients are."""
    return {key: value.clone() for key, value in optimizer.state[parameter].items() if key != "calls"}


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
@pytest.mark.parametrize("steps", [1, 4, 5, 6], ids=lambda steps: f"after {steps}")
def test_state_continues_bit_for_bit(spec: str, steps: int) -> None:
    model = Network()
    optimizer = make(spec, parameter_groups(model, weight_decay=0.1))
    run(model, optimizer, range(steps))
    state, copied = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model)
    run(model, optimizer, range(steps, steps + 14))
    resumed = make(spec, parameter_groups(copied, weight_decay=0.1))
    resumed.load_state_dict(state)
    run(copied, resumed, range(steps, steps + 14))
    assert_equal(weights(model), weights(copied))
    for mine, theirs in zip(model.parameters(), copied.parameters(), strict=True):
        assert optimizer.state[mine].keys() == resumed.state[theirs].keys()
        for key, value in optimizer.state[mine].items():
            assert torch.equal(value, resumed.state[theirs][key]), key


@paths
def test_state_survives_a_checkpoint_of_tensors_by_name(spec: str) -> None:
    model = Network()
    optimizer = make(spec, parameter_groups(model, weight_decay=0.1))
    run(model, optimizer, range(5))
    tensors = optimizer_tensors(optimizer, {p: name for name, p in model.named_parameters()})
    copied = copy.deepcopy(model)
    resumed = make(spec, parameter_groups(copied, weight_decay=0.1))
    load_optimizer_tensors(resumed, {p: name for name, p in copied.named_parameters()}, tensors)
    run(model, optimizer, range(5, 20))
    run(copied, resumed, range(5, 20))
    assert_equal(weights(model), weights(copied))


@paths
def test_settings_of_groups_are_plain_values(spec: str) -> None:
    optimizer = make(spec, Network().parameters())
    json.dumps([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])


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
def test_parameters_added_later_join(spec: str) -> None:
    model = Network()
    late = nn.Parameter(torch.ones(3))
    optimizer = make(spec, model.parameters())
    run(model, optimizer, range(4))
    optimizer.add_param_group({"params": [late], "weight_decay": 0.0})
    for step in range(4, 9):
        give_gradients(model, step)
        late.grad = torch.ones(3)
        optimizer.step()
    assert bool((late < 1).all())
    state = copy.deepcopy(optimizer.state_dict())
    copied, late_too = copy.deepcopy(model), nn.Parameter(late.detach().clone())
    resumed = make(spec, copied.parameters())
    resumed.add_param_group({"params": [late_too], "weight_decay": 0.0})
    resumed.load_state_dict(state)
    for step in range(9, 12):
        for each, parameter, moved in ((model, late, optimizer), (copied, late_too, resumed)):
            give_gradients(each, step)
            parameter.grad = torch.full((3,), float(step))
            moved.step()
    assert_equal([*weights(model), late.detach()], [*weights(copied), late_too.detach()])


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
    expected, text = (RuntimeError, None) if name in EXCEPTIONS else (SparseGradientError, "weight.*dense")
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


@own
def test_a_state_of_other_parameters_is_refused(name: str) -> None:
    def stepped(*shapes: tuple[int, ...], names: str = "abc") -> Optimizer:
        named = [(label, nn.Parameter(torch.ones(shape))) for label, shape in zip(names, shapes, strict=False)]
        optimizer = make(name, named)
        for _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    state = stepped((2, 3), (4,)).state_dict()
    with pytest.raises(InputError, match=r"groups of \[2\] parameters there and \[3\] here"):
        stepped((2, 3), (4,), (5,)).load_state_dict(state)
    with pytest.raises(InputError, match="parameter 'b' there, 'c' here"):
        stepped((2, 3), (4,), names="ac").load_state_dict(state)
    shaped = copy.deepcopy(state)
    for entry in shaped["state"].values():
        key = max(entry, key=lambda key: entry[key].numel())
        entry[key] = torch.zeros(7, 7)
    with pytest.raises(InputError, match=r"a: .*expected shape .*, got \(7, 7\)"):
        stepped((2, 3), (4,)).load_state_dict(shaped)
    strange = copy.deepcopy(state)
    strange["state"][0]["momentum"] = torch.zeros(2, 3)
    with pytest.raises(InputError, match=r"a: expected .*, got .*momentum"):
        stepped((2, 3), (4,)).load_state_dict(strange)


@own
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "fresh"])
def test_a_state_of_another_optimiser_is_refused(name: str, begun: bool) -> None:
    model = Network()
    optimizer = make(name, model.parameters())
    if begun:
        run(model, optimizer, range(1))
    before = copy.deepcopy(optimizer.state_dict())
    for other in OPTIMIZERS:
        theirs = make(other, model.parameters())
        run(model, theirs, range(2))
        state = theirs.state_dict()
        with_settings = {**state, "param_groups": optimizer.state_dict()["param_groups"]}
        if optimizer.defaults.keys() - theirs.defaults.keys():
            with pytest.raises(InputError, match="of another optimiser, without "):
                optimizer.load_state_dict(state)
        if name not in ENTRIES_ALIKE.get(other, {other}):
            with pytest.raises(InputError, match=r"parameter 0 of group 0: expected .*, got "):
                optimizer.load_state_dict(with_settings)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for key, entry in before["state"].items():
        assert all(torch.equal(value, after["state"][key][label]) for label, value in entry.items())


@own
def test_half_precision_weights_keep_wide_statistics_and_are_rounded_once(name: str) -> None:
    narrow = Network(torch.bfloat16)
    wide = Network()
    with torch.no_grad():
        for mine, theirs in zip(wide.parameters(), narrow.parameters(), strict=True):
            mine.copy_(theirs)
    small, large = make(name, narrow.parameters()), make(name, wide.parameters())
    for step in range(1):
        give_gradients(narrow, step)
        for mine, theirs in zip(wide.parameters(), narrow.parameters(), strict=True):
            assert theirs.grad is not None
            mine.grad = theirs.grad.float()
        small.step()
        large.step()
    for mine, theirs in zip(wide.parameters(), narrow.parameters(), strict=True):
        torch.testing.assert_close(theirs.detach(), mine.detach().bfloat16(), rtol=0, atol=0)
    run(narrow, small, range(1, 6))
    figures = small.figures if isinstance(small, Stepper) else frozenset()
    state = copy.deepcopy(small.state_dict())
    copied = copy.deepcopy(narrow)
    resumed = make(name, copied.parameters())
    resumed.load_state_dict(state)
    for parameter in narrow.parameters():
        for key, value in small.state[parameter].items():
            kinds = (torch.float64, torch.int64) if key in figures else (torch.float32,)
            assert value.dtype in kinds, key
    run(narrow, small, range(6, 12))
    run(copied, resumed, range(6, 12))
    assert_equal(weights(narrow), weights(copied))


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


@pytest.mark.parametrize("spec", [*(name for name in OPTIMIZERS if name not in EXCEPTIONS), *FORMS])
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


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Tensor]]:
    from safetensors.torch import load_file

    shared = ["data={name: emoji, split: validation, size: 32}", "size=tiny", "batch_size=8", "steps=4", "threads=1"]

    def weights_after(name: str, *, stop: int) -> dict[str, Tensor]:
        folder = tmp_path_factory.mktemp(name) / "run"
        asked: list[None] = []

        def should_stop() -> bool:
            asked.append(None)
            return len(asked) == stop

        spec = json.dumps({"name": name, **SETTINGS.get(name, {})})
        config = load_config(overrides=[*shared, "precision=fp32", f"optimizer={spec}"])
        if stop:
            from tether.core.errors import StoppedError

            with pytest.raises(StoppedError):
                train(config, folder=folder, should_stop=should_stop)
            train(config, folder=folder, resume=True)
        else:
            train(config, folder=folder)
        return load_file(folder / "model.safetensors")

    return weights_after


@optimizers
def test_a_training_run_stopped_and_resumed_ends_where_one_does_that_was_not(
    name: str, trainer: Callable[..., dict[str, Tensor]]
) -> None:
    whole, halved = trainer(name, stop=0), trainer(name, stop=2)
    assert whole.keys() == halved.keys()
    for key, value in whole.items():
        assert bool(value.isfinite().all()), key
        assert torch.equal(value, halved[key]), key
