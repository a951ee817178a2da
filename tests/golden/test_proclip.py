"""ProCLIP's losses, adapter and moving teacher against the figures: every case of the file, at its tolerance."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor, nn

from tether.losses import proclip_loss
from tether.models.composed.embedder import EmbedderAdapter
from tether.training.ema import MovingEncoder

V = load("proclip")


def cases(last: str) -> pytest.MarkDecorator:
    """Every beginning of a name that ends in ``last``."""
    return pytest.mark.parametrize(
        "prefix", sorted(name.removesuffix(last) for name in V.arrays if name.endswith(last))
    )


def given(name: str, *, learns: bool = False) -> Tensor:
    return torch.from_numpy(V[name].copy()).requires_grad_(learns)


def close(ours: Tensor, name: str) -> None:
    wanted = V[name]
    limit = float(V.meta["tolerance"][str(wanted.dtype)])
    np.testing.assert_allclose(ours.detach().numpy(), wanted, rtol=limit, atol=limit)


@cases("s1_total")
def test_first_stage(prefix: str) -> None:
    """The release adds two kinds of captions to the instance loss, and takes the structure of the short ones alone."""
    student, teacher = given(f"{prefix}s1_student_short", learns=True), given(f"{prefix}s1_teacher_short")
    noise, of_noise = given(f"{prefix}s1_student_noise", learns=True), given(f"{prefix}s1_teacher_noise")
    found = proclip_loss(student, teacher, further=[(noise, of_noise)], rows="raw", reduction="sum")
    close(found.instance, f"{prefix}s1_ins")
    close(found.structure, f"{prefix}s1_struct")
    close(found.total, f"{prefix}s1_total")
    found.total.backward()
    for rows, name in ((student, "grad_short"), (noise, "grad_noise")):
        assert rows.grad is not None
        close(rows.grad, f"{prefix}s1_{name}")


@cases("s2_reg")
def test_second_stage(prefix: str) -> None:
    image = given(f"{prefix}s2_image", learns=True)
    found = proclip_loss(image, given(f"{prefix}s2_teacher_image"), rows="raw", reduction="sum")
    close(found.instance, f"{prefix}s2_ins")
    close(found.structure, f"{prefix}s2_struct")
    weighed = float(V[f"{prefix}s2_weight"]) * found.total
    close(weighed, f"{prefix}s2_reg")
    weighed.backward()
    assert image.grad is not None
    close(image.grad, f"{prefix}s2_grad_image")


@cases("ema_new")
def test_moving_teacher(prefix: str) -> None:
    online = nn.Linear(1, 1)
    online.weight = nn.Parameter(given(f"{prefix}ema_teacher"))
    moving = MovingEncoder(online, momentum=float(V[f"{prefix}ema_m"]), steps=1)
    with torch.no_grad():
        online.weight.copy_(given(f"{prefix}ema_online"))
    moving.update_(step=0)
    close(moving.model.get_parameter("weight"), f"{prefix}ema_new")


@cases("adapter_out")
def test_adapter(prefix: str) -> None:
    start = f"{prefix}adapter_w_text_adaptor."
    weights = {name.removeprefix(start): given(name) for name in V.arrays if name.startswith(start)}
    blocks = len({name.split(".")[0] for name in weights if ".fn." in name})
    hidden, d_in = weights["0.fn.0.weight"].shape
    d_out = len(weights[f"{blocks + 1}.weight"])
    adapter = EmbedderAdapter(d_in, d_out, expansion=hidden // d_in, blocks=blocks).double()
    ours = {"ln": "0", "fn.0": "1", "fn.3": "3"}
    adapter.load_state_dict({renamed(name, blocks, ours): value for name, value in weights.items()})
    close(adapter(given(f"{prefix}adapter_in")), f"{prefix}adapter_out")


def renamed(name: str, blocks: int, ours: dict[str, str]) -> str:
    found = re.fullmatch(r"(\d+)\.(?:(ln|fn\.\d)\.)?(\w+)", name)
    assert found
    place, layer, what = int(found[1]), found[2], found[3]
    return f"blocks.{place}.{ours[layer]}.{what}" if layer else f"{('norm', 'project')[place - blocks]}.{what}"


def test_there_are_cases() -> None:
    V.need("s1_total", "s2_reg", "ema_new", "adapter_out")
