"""FT-CLIP's depths, groups, rates over a run and average of weights, every setting and tolerance from the file."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.optim import layer_decay_groups
from tether.optim.layer_decay import layer_of
from tether.training.ema import MovingEncoder
from tether.training.schedules import Cosine

V = load("ft-clip")
HYPER: dict[str, Any] = V.meta["hyper"]
CLOSE = {"rtol": float(re.search(r"rtol ([\d.e-]+)", V.meta["tolerance"])[1]), "atol": 0.0}
NAMES = V["param_names"].tolist() if "param_names" in V else []


@pytest.mark.parametrize(("row", "name"), list(enumerate(NAMES)))
def test_depths(row: int, name: str) -> None:
    assert layer_of(name, blocks=HYPER["layers"]) == V["layer_id"][row]


def module_of() -> nn.Module:
    """A module of these names: vectors where a weight has no decay in the file, matrices in all other places."""
    root = nn.Module()
    for name, decay in zip(NAMES, V["weight_decay"], strict=True):
        *path, last = name.split(".")
        owner = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        shape = (2,) if last.endswith("bias") or (last == "weight" and decay == 0) else (2, 2)
        owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))
    return root


def test_groups() -> None:
    V.need("param_names", "lr_scale", "weight_decay", "layer_scales")
    towers = {"": {"decay": float(HYPER["layer_decay"])}}
    groups = layer_decay_groups(module_of(), towers=towers, weight_decay=float(HYPER["weight_decay"]))
    found = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}
    assert found.keys() == {*NAMES}
    np.testing.assert_allclose([found[name][0] for name in NAMES], V["lr_scale"], **CLOSE)
    np.testing.assert_allclose([found[name][1] for name in NAMES], V["weight_decay"], **CLOSE)
    scales = sorted({group["lr_scale"] for group in groups})
    np.testing.assert_allclose(scales, sorted({*V["layer_scales"].tolist()}), **CLOSE)


def test_rates_over_a_run() -> None:
    V.need("lr_schedule")
    lr, per_epoch = HYPER["lr"], HYPER["steps_per_epoch"]
    warmup = HYPER["warmup_steps"] if HYPER["warmup_steps"] > 0 else HYPER["warmup_epochs"] * per_epoch
    schedule = Cosine(warmup=warmup, start=HYPER["warmup_lr"] / lr, floor=HYPER["min_lr"] / lr)
    steps = HYPER["epochs"] * per_epoch
    found = [lr * schedule.factor(step, steps=steps) for step in range(steps)]
    np.testing.assert_allclose(found, V["lr_schedule"], rtol=CLOSE["rtol"], atol=CLOSE["rtol"] * lr)


def test_average_of_weights() -> None:
    V.need("ema_params", "ema_values")
    model, path = nn.Module(), torch.from_numpy(V["ema_params"].copy())
    model.register_parameter("weight", nn.Parameter(path[0].clone()))
    model.register_buffer("statistic", path[0].clone())
    ema = MovingEncoder(model, momentum=float(HYPER["ema_decay"]), steps=len(path), buffers="averaged")
    np.testing.assert_allclose(ema.model.weight.numpy(), V["ema_values"][0], **CLOSE)
    for step, (values, wanted) in enumerate(zip(path[1:], V["ema_values"][1:], strict=True)):
        model.weight.data.copy_(values)
        model.statistic.copy_(values)
        ema.update_(step=step)
        np.testing.assert_allclose(ema.model.weight.numpy(), wanted, **CLOSE)
        np.testing.assert_allclose(ema.model.statistic.numpy(), wanted, **CLOSE)
