"""What every optimiser of ``OPTIMIZERS`` promises of its state: it resumes bit for bit, and no other is taken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer_cases import (
    SETTINGS,
    Network,
    assert_equal,
    give_gradients,
    make,
    optimizers,
    own,
    paths,
    run,
    weights,
)
from tether.core.errors import InputError, StoppedError
from tether.optim import OPTIMIZERS, parameter_groups
from tether.optim.optimizer_base import Stepper
from tether.training import load_config, train
from tether.training.parallel import load_optimizer_tensors, optimizer_tensors

pytestmark = pytest.mark.slow

ADAMS, ADAGRADS = {"adamw", "clip_adam", "clip_adam_d", "lamb"}, {"clip_adagrad", "clip_adagrad_d"}
ENTRIES_ALIKE = {name: group for group in (ADAMS, ADAGRADS) for name in group}
"""Optimisers that remember entries of the same names; only their settings tell their states apart."""


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
        if optimizer.param_groups[0].keys() != theirs.param_groups[0].keys():
            with pytest.raises(InputError, match=r"of another optimiser, with(out)? "):
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
