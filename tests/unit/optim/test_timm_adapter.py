"""timm's optimisers by name: the steps that timm's own factory gives, and resumed bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch.optim import Optimizer

from optimizer_cases import Network, assert_equal, run, weights
from tether.core.component import build
from tether.core.errors import InputError
from tether.optim import OPTIMIZERS, parameter_groups, with_timm
from tether.training.parallel import load_optimizer_tensors, optimizer_tensors

USABLE = [
    name
    for name in list_optimizers()
    if not name.startswith(("bnb", "fused", "kron")) and not get_optimizer_info(name).second_order
]
"""All but those that need other packages or second derivatives, and the one that draws."""


def make(spec: Any, params: Any) -> Optimizer:
    return build(spec, with_timm(OPTIMIZERS, spec), where="recipe: optimizer", params=params, finite=True)


@pytest.mark.parametrize("name", USABLE)
def test_steps_as_timm_and_goes_on_bit_for_bit(name: str) -> None:
    model, peer = Network(), Network()
    optimizer = make({"name": f"timm/{name}", "lr": 1e-3}, parameter_groups(model, weight_decay=0.1))
    groups: Any = [{**g, "params": [p for _, p in g["params"]]} for g in parameter_groups(peer, weight_decay=0.1)]
    theirs = create_optimizer_v2(groups, opt=name, lr=1e-3)
    torch.manual_seed(0)
    run(model, optimizer, range(6))
    torch.manual_seed(0)
    run(peer, theirs, range(6))
    assert_equal(weights(model), weights(peer))

    names = {parameter: label for label, parameter in model.named_parameters()}
    tensors = {key: value.clone() for key, value in optimizer_tensors(optimizer, names).items()}
    state, drawn = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    copies = [copy.deepcopy(model), copy.deepcopy(model)]
    run(model, optimizer, range(6, 12))
    for way, copied in zip(("tensors", "state_dict"), copies, strict=True):
        resumed = make({"name": f"timm/{name}", "lr": 1e-3}, parameter_groups(copied, weight_decay=0.1))
        if way == "tensors":
            load_optimizer_tensors(resumed, {p: label for label, p in copied.named_parameters()}, tensors)
        else:
            resumed.load_state_dict(state)
        torch.set_rng_state(drawn)
        run(copied, resumed, range(6, 12))
        assert_equal(weights(model), weights(copied))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("muon", "unknown 'muon'; that of timm is 'timm/muon'"),
        ("timm/muonn", "timm has no 'muonn'; did you mean"),
        ("timm/kron", "a generator of its own"),
        ("timm/adahessian", "second derivatives"),
        ("timm/bnbadam", "a package besides timm"),
        ({"name": "timm/muon", "momentun": 0.9}, "unknown key 'momentun'; did you mean 'momentum'"),
        ({"name": "timm/lamb", "lr": -1.0}, "optimizer"),
        ({"name": "timm/muon", "lr": 1e300}, r"timm/muon: lr: expected a number in \[0, 1e\+30\), or null"),
        ({"name": "timm/lion", "lr": "fast"}, "optimizer"),
    ],
)
def test_refuses(spec: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(spec, Network().parameters())
