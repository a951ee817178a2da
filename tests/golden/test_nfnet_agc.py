from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.methods.nfnet_agc.clipper import AGC, adaptive_clip_grad_
from tether.methods.nfnet_agc.scaled_activation import GAMMAS, ScaledActivation
from tether.methods.nfnet_agc.scaled_std_conv import ScaledStdConv2d
from tether.methods.nfnet_agc.unit_norms import unitwise_norm
from tether.optim import SGD

V = load("nfnet-agc")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
PLACES = [name.removeprefix("agc_p") for name in V.arrays if re.fullmatch(r"agc_p\d+", name)]


def parameter(place: str) -> nn.Parameter:
    tensor = nn.Parameter(torch.from_numpy(V[f"agc_p{place}"].copy()))
    tensor.grad = torch.from_numpy(V[f"agc_g{place}"].copy())
    return tensor


CASES = [
    (place, rule, wanted)
    for place in PLACES
    for rule, wanted in (("nfnet", "agc_out"), ("timm", "agc_timm"))
    if f"{wanted}{place}" in V
]


@pytest.mark.parametrize(("place", "rule", "wanted"), CASES)
def test_each_tensor(place: str, rule: str, wanted: str) -> None:
    settings = V.meta["agc"]
    tensor = parameter(place)
    report = adaptive_clip_grad_([("tensor", tensor)], clipping=settings["clip"], eps=settings["eps"], rule=rule)
    np.testing.assert_allclose(tensor.grad.numpy(), V[f"{wanted}{place}"], **CLOSE)
    limit = unitwise_norm(tensor.detach(), rule=rule).clamp(min=settings["eps"]) * settings["clip"]
    over = unitwise_norm(torch.from_numpy(V[f"agc_g{place}"]), rule=rule) > limit
    assert dict(report) == {"tensor": pytest.approx(over.double().mean().item())}


def test_all_tensors_in_one_call() -> None:
    settings = V.meta["agc"]
    places = [place for place in PLACES if f"agc_out{place}" in V]
    named = [(f"tensor{place}", parameter(place)) for place in places]
    AGC(settings["clip"], eps=settings["eps"]).clip_(named, step=0)
    for place, (_, tensor) in zip(places, named, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), V[f"agc_out{place}"], **CLOSE)


NUMBERS = r"tensors? (\d+(?:(?:, | and |, and |,|-)\d+)*)"


def rules(text: str) -> dict[int, tuple[bool, bool]]:
    """Tensor number to whether it is clipped and whether it decays, from words like "tensors 0, 2-4: AGC"."""
    found = {}
    pieces = re.split(NUMBERS, text)
    for numbers, words in zip(pieces[1::2], pieces[2::2], strict=True):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
            each = ("no AGC" not in words, "no wd" not in words)
            found |= dict.fromkeys(range(int(first), int(last or first) + 1), each)
    return found


def test_sgd_agc_trajectory() -> None:
    settings = V.meta["sgd"]
    each = rules(settings["per_tensor"])
    assert sorted(each) == list(range(len(settings["shapes"])))
    named, start = [], 0
    for index, shape in enumerate(settings["shapes"]):
        part = V["sgd_p0"][start : start + math.prod(shape)]
        named.append((f"tensor{index}", nn.Parameter(torch.from_numpy(part.copy()).view(shape))))
        start += math.prod(shape)
    assert start == len(V["sgd_p0"])
    clipper = AGC(
        settings["clipping"],
        eps=settings["eps"],
        exclude=[f"tensor{index}" for index, (clipped, _) in each.items() if not clipped],
    )
    optimizer = SGD(
        [
            {"params": [tensor], "weight_decay": settings["weight_decay"] if each[index][1] else 0.0}
            for index, (_, tensor) in enumerate(named)
        ],
        lr=settings["lr"],
        momentum=settings["momentum"],
        momentum_rule="nesterov" if settings["nesterov"] else "heavy_ball",
    )
    for step, row in enumerate(V["sgd_grads"]):
        pieces = torch.from_numpy(row.copy()).split([tensor.numel() for _, tensor in named])
        for (_, tensor), piece in zip(named, pieces, strict=True):
            tensor.grad = piece.view(tensor.shape)
        clipper.clip_(named, step=step)
        optimizer.step()
        got = np.concatenate([tensor.detach().numpy().ravel() for _, tensor in named])
        np.testing.assert_allclose(got, V["sgd_traj"][step], **CLOSE, err_msg=f"step {step}")


@pytest.mark.parametrize("case", [name.removesuffix("_w") for name in V.arrays if re.fullmatch(r"ws\w*_w", name)])
def test_standardised_filters(case: str) -> None:
    weight, settings = V[f"{case}_w"], V.meta.get(case, V.meta["ws"])
    outputs, inputs, *kernel = weight.shape
    conv = ScaledStdConv2d(inputs, outputs, tuple(kernel), eps=settings["eps"]).double()
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(weight))
        conv.gain.copy_(torch.from_numpy(V[f"{case}_gain"]))
        np.testing.assert_allclose(conv.standardised_weight().numpy(), V[f"{case}_out"], **CLOSE)


@pytest.mark.parametrize(
    "name", sorted(n.removeprefix("act_") for n in V.arrays if n.startswith("act_") and n != "act_x")
)
def test_activation(name: str) -> None:
    got = ScaledActivation(name, dim=-1)(torch.from_numpy(V["act_x"]))
    np.testing.assert_allclose(got.numpy(), V[f"act_{name}"], **CLOSE)


def test_every_activation_of_the_release_is_there() -> None:
    assert set(map(str, V["gamma_names"])) == set(GAMMAS)
