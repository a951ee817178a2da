"""EVA-CLIP's LAMB, its groups by depth and their learning rates, and tables and kernels at another grid."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from loading import as_declared, load
from torch import Tensor, nn

from tether.models.positions import resize_grid, resize_kernel
from tether.optim import Lamb, layer_decay_groups
from tether.optim.layer_decay import layer_of
from tether.train.schedules import Cosine

V = load("eva-clip-18b")
HYPER: dict[str, Any] = V.meta["hyper"]
ARGS: dict[str, Any] = HYPER["args"]


def close(what: str) -> float:
    """The file's tolerance, which it gives in words."""
    found = re.search(rf"{what}\D*([\d.]+e-\d+)", V.meta["tolerance"])
    assert found
    return float(found[1])


def at(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def test_lamb() -> None:
    given = dict(HYPER["lamb"])
    count = sum(name.startswith("lamb_g") for name in V.arrays)
    parameters = [nn.Parameter(at(f"lamb_p{place}_init")) for place in range(count)]
    decay, steps = given.pop("wd"), given.pop("steps")
    given.pop("gscale")  # is in the gradients
    settings = as_declared(Lamb, given)
    decayed = [parameter for place, parameter in enumerate(parameters) if place != 1]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": [parameters[1]], "weight_decay": 0.0}]
    optimizer = Lamb(groups, **settings)
    for step in range(steps):
        for place, parameter in enumerate(parameters):
            parameter.grad = at(f"lamb_g{place}")[step]
        optimizer.step()
        for place, parameter in enumerate(parameters):
            wanted = V[f"lamb_p{place}"][step]
            np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=close("LAMB"), atol=close("LAMB"))


def module_of(groups: list[dict[str, Any]]) -> nn.Module:
    """A module whose parameters have the names of the groups: matrices, and vectors where the name does not say it."""
    root = nn.Module()
    for group in groups:
        for name in group["names"]:
            *path, last = name.split(".")
            owner = root
            for part in path:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            vector = group["weight_decay"] == 0 and last in ("weight", "bias")
            shape = () if last == "logit_scale" else (2,) if vector else (2, 2)
            owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))
    return root


def groups() -> list[dict[str, Any]]:
    towers: dict[str, dict[str, float]] = {}
    for tower in ("visual", "text"):
        given = {key: ARGS.get(f"{tower}_{theirs}") for key, theirs in (("decay", "ld"), ("lr", "lr"), ("wd", "wd"))}
        towers[tower] = {key: float(value) for key, value in given.items() if value is not None}
    model = module_of(V.meta["param_groups"])
    return layer_decay_groups(model, towers=towers, weight_decay=float(ARGS["wd"]), lr=float(ARGS["lr"]))


def by_names(found: list[dict[str, Any]]) -> dict[frozenset[str], tuple[float, float, float]]:
    return {
        frozenset(group["names"] if "names" in group else [name for name, _ in group["params"]]): (
            group["lr"],
            group["lr_scale"],
            group["weight_decay"],
        )
        for group in found
    }


def test_groups() -> None:
    mine, theirs = by_names(groups()), by_names(V.meta["param_groups"])
    assert mine.keys() == theirs.keys()
    for names, values in theirs.items():
        assert mine[names] == pytest.approx(values, rel=close("lr"), abs=0), names


@pytest.mark.parametrize("name", V.meta["layer_id_examples"])
def test_depths(name: str) -> None:
    assert layer_of(name, blocks=HYPER["nv"]) == V.meta["layer_id_examples"][name]


def test_rates_over_a_run() -> None:
    rates, schedule = by_names(groups()), Cosine(warmup=ARGS["warmup"])
    for step, row in enumerate(V["sched_lr"]):
        factor = schedule.factor(step, steps=HYPER["sched_steps"])
        for group, wanted in zip(V.meta["param_groups"], row, strict=True):
            lr, scale, _ = rates[frozenset(group["names"])]
            np.testing.assert_allclose(lr * scale * factor, wanted, rtol=close("lr"), atol=close("lr"))


def test_another_grid() -> None:
    sides = {"old": (HYPER["pe_old"],) * 2, "new": (HYPER["pe_new"],) * 2, "antialias": False}
    tolerance = {"rtol": 0, "atol": close("resizes")}
    torch.testing.assert_close(resize_grid(at("pe_old"), **sides), at("pe_new"), **tolerance)
    corners = resize_grid(at("pe_old")[0], align_corners=True, **sides)
    torch.testing.assert_close(corners, at("pe_new_clip_style"), **tolerance)


def test_another_patch() -> None:
    """The official code resizes in float32, and only where the grid changes."""
    old, wanted = at("patch_w_old"), at("patch_w_new")
    found = resize_kernel(old, new=(HYPER["ps_new"],) * 2, kernel="plain", antialias=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
