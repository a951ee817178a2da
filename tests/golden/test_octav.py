"""Clip values, rounded tensors and gradients of a transcription in float64."""

from __future__ import annotations

import pytest
import torch
from loading import load
from torch import Tensor

from tether.compression.quantise import FakeQuant, octav_clip, round_to_levels

V = load("octav")
CLOSE = V.meta["tolerance"]
CASES = range(len(V.meta["tensors"]))


def given(case: int) -> tuple[Tensor, dict, dict]:
    said = V.meta["tensors"][case]
    x = torch.from_numpy(V[f"t{case}.x"]).double()
    dim = said["reduce_axis"]
    return x, said, {"signed": said["signed"], "dim": tuple(dim) if isinstance(dim, list) else dim}


@pytest.mark.parametrize("case", CASES)
def test_the_clip_value_after_every_number_of_steps(case: int) -> None:
    x, said, settings = given(case)
    trace = torch.from_numpy(V[f"t{case}.trace"])
    for steps in range(1, len(trace)):
        s = octav_clip(x, said["bits"], **settings, max_iter=steps, tol=0.0)
        torch.testing.assert_close(s.reshape(trace[steps].shape), trace[steps], **CLOSE)
    s = octav_clip(x, said["bits"], **settings)
    torch.testing.assert_close(s.flatten(), torch.from_numpy(V[f"t{case}.s"]).flatten(), **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_rounded_values_and_their_errors(case: int) -> None:
    x, said, settings = given(case)
    for place, observer in enumerate(("octav", "max")):
        quant = FakeQuant(said["bits"], **settings, observer=observer)
        q = quant(x)
        if observer == "octav":
            torch.testing.assert_close(q, torch.from_numpy(V[f"t{case}.q"]), **CLOSE)
        torch.testing.assert_close(float((q - x).square().mean()), float(V[f"t{case}.mse"][place]), **CLOSE)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grad", ["pwl", "mad", "ste"])
def test_gradients(case: int, grad: str) -> None:
    x, said, _ = given(case)
    x.requires_grad_()
    s = torch.from_numpy(V[f"t{case}.s"])
    round_to_levels(x, s, said["bits"], signed=said["signed"], grad=grad).sum().backward()
    expected = torch.ones_like(x) if grad == "ste" else torch.from_numpy(V[f"t{case}.grad_{grad}"])
    torch.testing.assert_close(x.grad, expected, **CLOSE)
