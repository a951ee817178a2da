"""EVA-CLIP's towers, LAMB, groups by depth and their learning rates, tables and kernels at another grid."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from loading import as_declared, load
from torch import Tensor, nn

from tether.core.types import ImageSpec
from tether.methods.eva_clip_18b.eva import load_tower_
from tether.models.towers.blocks.grid import Grid
from tether.models.towers.positions import resize_grid, resize_kernel
from tether.models.towers.vision.eva import EvaTower
from tether.models.towers.vision.eva_config import EvaConfig, eva_block
from tether.optim import Lamb, layer_decay_groups
from tether.optim.layer_decay import layer_of
from tether.training.schedules import Cosine

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


def tower_of(name: str) -> EvaTower:
    """The tower that ``meta`` describes, with the file's weights."""
    given = HYPER["towers"][name]
    side, width, patch = given["img_size"], given["embed_dim"], given["patch_size"]
    norm: Any = {"rms": "rms", "ln": "layer"}[given["norm"]]
    span = given["pt_hw_seq_len"] if given.get("intp_freq") else side // patch
    block = eva_block(
        norm=norm,
        norm_position="post" if given.get("postnorm") else "pre",
        swiglu=bool(given.get("naiveswiglu")),
        sub_norm=bool(given.get("subln")),
        layer_scale=given.get("init_values") or None,
    )
    config = EvaConfig(
        image=ImageSpec(size=(side, side)),
        patch=patch,
        width=width,
        layers=given["depth"],
        heads=given["num_heads"],
        hidden=int(width * given["mlp_ratio"]),
        block=block,
        qkv_bias=given.get("qkv_bias", False),
        rope_span=span if given.get("rope") else None,
        pool="mean" if given.get("use_mean_pooling", True) else "class",
    )
    tower = EvaTower(config, dim=given["num_classes"]).double()
    report = load_tower_(tower, {key.removeprefix(f"{name}__"): at(key) for key in V.arrays if f"{name}__" in key})
    assert (report.missing, report.unexpected, report.resized, report.skipped) == ((), (), (), ())
    return tower


@pytest.mark.parametrize("name", HYPER["towers"])
def test_towers(name: str) -> None:
    tower, image = tower_of(name), at(f"{name}_x").double()
    bound = close("RMSnorm") if HYPER["towers"][name]["norm"] == "rms" else close("other towers")
    tolerance = {"rtol": bound, "atol": bound}
    torch.testing.assert_close(tower(image).pooled, at(f"{name}_y"), **tolerance)
    tokens = tower.embed(image)
    for block in tower.blocks:
        tokens = block(tokens, causal=False, grid=Grid(*tower.config.grid, before=1))
    torch.testing.assert_close(tokens, at(f"{name}_tokens"), **tolerance)


def test_patches_that_are_kept() -> None:
    """In the order in which they were drawn; class token and positions are a tower's own, here zero."""
    keep, wanted = at("pd_keep"), at("pd_out")
    rows, count, width = len(keep), HYPER["ntok"], wanted.shape[2]
    side = next(side for side in range(1, width + 1) if 3 * side**2 >= width)
    config = EvaConfig(
        image=ImageSpec(size=(side, side * count)), patch=side, width=width, heads=1, layers=1, rope_span=None
    )
    tower = EvaTower(config, dim=1).double()
    for weight in (tower.class_token, tower.position, tower.patch.bias):
        torch.nn.init.zeros_(weight)
    torch.nn.init.eye_(tower.patch.weight)
    flat = torch.zeros(rows, count, 3 * side**2, dtype=torch.float64)
    flat[..., :width] = at("pd_x")[:, 1:]
    image = flat.view(rows, count, 3, side, side).permute(0, 2, 3, 1, 4).flatten(3)
    torch.testing.assert_close(tower.embed(image, keep=keep)[:, 1:], wanted[:, 1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wanted[:, 0], at("pd_x")[:, 0], rtol=0, atol=0)
