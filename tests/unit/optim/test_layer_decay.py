"""Groups by depth beside timm's, on our towers, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from tether.core.errors import InputError
from tether.models import create
from tether.optim import layer_decay_groups
from tether.optim.layer_decay import layer_of
from tether.training.steps.module import StepModule


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_scales_equal_timm(name: str) -> None:
    model = timm.create_model(name, depth=3, pretrained=False)
    theirs = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(
            model, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=("cls_token", "pos_embed")
        )
        for parameter in group["params"]
    }
    groups = layer_decay_groups(model, towers={"": {"decay": 0.75}}, weight_decay=0.05, final_norm="last_block")
    for group in groups:
        for label, parameter in group["params"]:
            assert (group["lr_scale"], group["weight_decay"]) == pytest.approx(theirs.pop(id(parameter))), label
    assert not theirs


def test_our_towers_have_a_depth_each() -> None:
    model = create("tiny")
    towers = {"visual": {"decay": 0.5, "wd": 0.0}, "text": {"decay": 0.9, "lr": 1e-4}}
    groups = {group["name"]: group for group in layer_decay_groups(model, towers=towers, weight_decay=0.2, lr=1e-3)}
    blocks = len(model.visual.blocks)  # pyrefly: ignore
    placed = {name: label for label, group in groups.items() for name, _ in group["params"]}
    assert placed.keys() == dict(model.named_parameters()).keys()
    assert placed["visual.class_token"].startswith("visual 0")
    assert placed["visual.position"] == "visual 0 no_decay"
    assert placed["text.token.weight"] == "text 0 decay"
    assert placed["log_logit_scale"] == "rest no_decay"
    assert groups["visual 0 no_decay"]["lr_scale"] == 0.5 ** (blocks + 1)
    assert groups["visual 1 decay"]["weight_decay"] == 0.0
    assert (groups["text 0 decay"]["lr"], groups["visual 1 decay"]["lr"]) == (1e-4, 1e-3)


def test_inside_the_module_of_a_step() -> None:
    """A recipe names parts of the model; the run gives the module around it."""
    module = StepModule(create("tiny"))
    groups = layer_decay_groups(module, towers={"model.visual": {"decay": 0.5}}, weight_decay=0.2)
    assert {group["name"].partition(" ")[0] for group in groups} == {"model.visual", "rest"}
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"towers": {"visuel": {"decay": 0.5}}}, "no part 'visuel'"),
        ({"towers": {"visual": {"decays": 0.5}}}, "unknown key 'decays'; did you mean 'decay'"),
        ({"towers": {"visual": {"decay": 0.0}}}, "decay"),
        ({"towers": {"visual": {"decay": 1.5}}}, "decay"),
        ({"towers": {"visual": {"lr": -1.0}}}, "lr"),
        ({"towers": {}, "weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_refuses(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        layer_decay_groups(create("tiny"), **{"weight_decay": 0.1, **settings})


def test_a_factor_on_all_but_the_output() -> None:
    groups = layer_decay_groups(create("tiny"), towers={"visual": {"decay": 0.5, "below": 0.1}}, weight_decay=0.2)
    scales = {group["name"]: group["lr_scale"] for group in groups}
    last = max(int(name.split()[1]) for name in scales if name.startswith("visual"))
    assert (scales[f"visual {last} decay"], scales["rest decay"]) == (1.0, 1.0)
    assert scales[f"visual {last - 1} decay"] == pytest.approx(0.05)


def test_what_lies_nowhere_is_named() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "strange": nn.Linear(2, 2)})
    with pytest.warns(UserWarning, match=r"no depth is known for strange\.weight, strange\.bias: "):
        groups = layer_decay_groups(model, towers={"": {"decay": 0.5}}, weight_decay=0.1)
    assert {name: group["lr_scale"] for group in groups for name, _ in group["params"]} == {
        "blocks.0.weight": 0.5,
        "blocks.0.bias": 0.5,
        "strange.weight": 1.0,
        "strange.bias": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("visual.layer3.0.conv1.weight", 4),  # of a residual network
        ("visual.trunk.stages.2.blocks.0.mlp.fc1.weight", 3),  # of a ConvNeXt
        ("model.image.inner.conv_stem.weight", 0),
        ("model.image.inner.blocks.3.1.conv_pw.weight", 4),
        ("model.image.inner.conv_head.weight", 8),
        ("visual.attnpool.positional_embedding", 8),
    ],
)
def test_depths_of_convolutions(name: str, depth: int) -> None:
    assert layer_of(name, blocks=7) == depth


def test_tables_of_positions_do_not_decay_in_any_library() -> None:
    names = ("embeddings.position_embedding.weight", "embeddings.position_embeddings", "trunk.pos_embed")
    for name in names:
        path, _, last = name.rpartition(".")
        root = nn.Module()
        owner = root
        for part in path.split("."):
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, nn.Parameter(torch.zeros(2, 2)))
        (group,) = layer_decay_groups(root, towers={"": {"decay": 0.5}}, weight_decay=0.1)
        assert group["weight_decay"] == 0.0, name
