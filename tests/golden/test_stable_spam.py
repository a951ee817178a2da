from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from loading import as_declared, load
from torch import Tensor, nn
from torch.optim import Optimizer

from tether.methods.stable_spam import (
    SPAM,
    FakeQuantLinear,
    StableSPAM,
    int4_codes,
    quantise_fp4,
    quantise_int4,
    quantise_int4_input,
)

V = load("stable-spam")
SHAPES = V.meta["shapes"]
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
OWN_NAMES = {
    "update_proj_gap": "reset_interval",
    "total_T": "total_steps",
    "DeltaT": "reset_interval",
    "grad_accu_steps": "accumulate_steps",
    "correct_bias": "bias_correction",
}
"""What we call the released code's settings; the others keep their names."""
STABLE = [case for case in V.meta["configs"] if case.startswith("stable")]
SPAMS = [case for case in V.meta["configs"] if case.startswith("spam")]
INTENDED = [name for name in V.arrays if name.startswith("intended_") and name.endswith("_traj")]
FIGURES = ("largest_mean", "norm_mean", "norm_square", "norm_step")


def settings(case: str) -> dict:
    family = "stable" if case.startswith("stable") else "spam"
    given = {**V.meta["defaults"][family], **V.meta["configs"][case]}
    given.pop("no_deprecation_warning", None)
    part = StableSPAM if family == "stable" else SPAM
    return as_declared(part, {OWN_NAMES.get(name, name): value for name, value in given.items()})


def per_case(case: str, name: str) -> np.ndarray:
    """Start and gradients are shared by all cases unless the file has some of the case's own."""
    return V.arrays.get(f"{name}_{case}", V[name])


def cut(row: np.ndarray) -> list[Tensor]:
    parts = torch.from_numpy(row.copy()).split([math.prod(shape) for shape in SHAPES])
    return [part.clone().view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def flat(tensors: list) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


def run(case: str, optimizer: type[Optimizer], given: dict) -> dict[str, np.ndarray]:
    parameters = [nn.Parameter(part) for part in cut(per_case(case, "p0"))]
    moved = optimizer(parameters, **given, inplace_grad=True)
    seen: dict[str, list] = {"traj": [], "grads": [], "state": []}
    for row in per_case(case, "grads"):
        for parameter, gradient in zip(parameters, cut(row), strict=True):
            parameter.grad = gradient
        moved.step()
        seen["traj"].append(flat(parameters))
        seen["grads"].append(flat([parameter.grad for parameter in parameters]))
        if optimizer is StableSPAM:
            seen["state"].append([[float(moved.state[p][key]) for key in FIGURES] for p in parameters])
    return {name: np.array(values) for name, values in seen.items()}


@pytest.mark.parametrize("case", STABLE)
def test_stable_spam_is_the_released_one(case: str) -> None:
    got = run(case, StableSPAM, settings(case))
    np.testing.assert_allclose(got["traj"], V[f"{case}_traj"], **CLOSE)
    if f"{case}_state" in V:
        np.testing.assert_allclose(got["state"], V[f"{case}_state"], **CLOSE)
    if f"{case}_adaclip_grads" in V:
        np.testing.assert_allclose(got["grads"], V[f"{case}_adaclip_grads"], **CLOSE)


@pytest.mark.parametrize("name", INTENDED)
def test_clean_reset(name: str) -> None:
    case = name.removeprefix("intended_").removesuffix("_traj")
    case = next(known for known in STABLE if known.endswith(case))
    got = run(case, StableSPAM, {**settings(case), "reset_mode": "clean"})
    np.testing.assert_allclose(got["traj"], V[name], **CLOSE)
    if 0 < settings(case)["reset_interval"] < len(got["traj"]) and f"{case}_traj" in V:
        assert not np.allclose(got["traj"], V[f"{case}_traj"], **CLOSE)


@pytest.mark.parametrize("case", SPAMS)
def test_spam_is_the_released_one(case: str) -> None:
    got = run(case, SPAM, settings(case))
    np.testing.assert_allclose(got["traj"], V[f"{case}_traj"], **CLOSE)
    if f"{case}_clipped_grads" in V:
        np.testing.assert_allclose(got["grads"], V[f"{case}_clipped_grads"], **CLOSE)


QUANT = {name: float(value) for name, value in re.findall(r"(rtol|atol) ([\d.e-]+\d)", V.meta["tol_float32"])}
"""The file's meta says it in a sentence."""
GRIDS = {"q_int4_deq": quantise_int4, "q_act4": quantise_int4_input, "q_fp4": quantise_fp4}


def check_levels(ours: np.ndarray, wanted: np.ndarray) -> None:
    """Alike, but that a value halfway between two levels may go to either: hardly one, and to the next level only."""
    off = ~np.isclose(ours, wanted, **QUANT)
    assert off.mean() < 0.01
    assert np.abs(ours - wanted)[off].max(initial=0) <= np.diff(np.unique(wanted)).max() + QUANT["atol"]


@pytest.mark.skipif("q_int4_codes" not in V, reason="no codes in the file")
def test_int4_codes() -> None:
    codes, scale, zero = int4_codes(torch.from_numpy(V["q_x"]))
    shifted = zero - torch.from_numpy(V["q_int4_zero"])  # a zero halfway between two codes takes its row along
    assert shifted.abs().max() <= 1
    check_levels((codes - shifted).numpy(), V["q_int4_codes"].astype(float))
    np.testing.assert_allclose(scale.numpy(), V["q_int4_scale"], **QUANT)


@pytest.mark.parametrize("name", [name for name in GRIDS if name in V])
def test_grids(name: str) -> None:
    check_levels(GRIDS[name](torch.from_numpy(V["q_x"])).numpy(), V[name])


@pytest.mark.parametrize("scheme", [scheme for scheme in ("int4", "fp4") if f"lin_{scheme}_y" in V])
def test_one_layer_forward_and_backward(scheme: str) -> None:
    weight = torch.from_numpy(V["lin_W"])
    layer = FakeQuantLinear(weight.shape[1], weight.shape[0], scheme=scheme)
    layer.load_state_dict({"weight": weight, "bias": torch.from_numpy(V["lin_b"])})
    x = torch.from_numpy(V["lin_x"]).requires_grad_()
    y = layer(x)
    (y * torch.from_numpy(V["lin_up"])).sum().backward()
    for name, value in (("y", y), ("gx", x.grad), ("gw", layer.weight.grad), ("gb", layer.bias.grad)):
        np.testing.assert_allclose(value.detach().numpy(), V[f"lin_{scheme}_{name}"], **QUANT, err_msg=name)
