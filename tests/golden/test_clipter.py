"""Attention, context, output and the gate's gradient against the figures: every case of the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.tasks.read import GatedSceneAttention

V = load("clipter")
RTOL = float(str(V.meta["tolerance"]).split()[-1])
CASES = sorted(name.removesuffix("scene_padding") for name in V.arrays if name.endswith("scene_padding"))


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def heads(prefix: str) -> int:
    return V[f"{prefix}attention"].shape[1]


def fusion(prefix: str, *, alpha: Tensor) -> GatedSceneAttention:
    at = f"{prefix}w/" if f"{prefix}w/proj" in V else "w/"  # cases of a file may share their weights
    width, scene_width = V[f"{at}proj"].shape
    made = GatedSceneAttention(width, scene_dim=scene_width, heads=heads(prefix)).double()
    made.load_state_dict(
        {
            "alpha": alpha,
            "norm.weight": array(f"{at}ln_w"),
            "norm.bias": array(f"{at}ln_b"),
            "project.weight": array(f"{at}proj"),
            "project.bias": array(f"{at}proj_b"),
            "attention.in_proj_weight": torch.cat([array(at + name) for name in "qkv"]),
            "attention.in_proj_bias": torch.cat([array(f"{at}{name}_b") for name in "qkv"]),
            "attention.out_proj.weight": array(f"{at}out"),
            "attention.out_proj.bias": array(f"{at}out_b"),
        }
    )
    return made


def close(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-2)


@pytest.mark.parametrize("prefix", CASES)
def test_case(prefix: str) -> None:
    words, scene, padding = (array(prefix + name) for name in ("words", "scene", "scene_padding"))
    made = fusion(prefix, alpha=array(f"{prefix}alpha"))
    found = made.look(words, scene, scene_padding=padding)
    close(found.weights, f"{prefix}attention")
    close(found.context, f"{prefix}context")
    out = made(words, scene, scene_padding=padding)
    close(out, f"{prefix}out")
    (out * array(f"{prefix}probe")).sum().backward()
    assert made.alpha.grad is not None
    close(made.alpha.grad, f"{prefix}grad_alpha")
    closed = fusion(prefix, alpha=torch.zeros((), dtype=torch.float64))(words, scene, scene_padding=padding)
    assert torch.equal(closed, words)
    np.testing.assert_array_equal(closed.detach().numpy(), V[f"{prefix}out_alpha0"])


def test_there_are_cases() -> None:
    assert CASES
