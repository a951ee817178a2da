from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.methods.zclip import ZClip

V = load("zclip")
SHAPES = V.meta["shapes"]
CONFIGS = V.meta["configs"]


def named_gradients(row: np.ndarray, shapes: list[list[int]]) -> list[tuple[str, nn.Parameter]]:
    named, start = [], 0
    for index, shape in enumerate(shapes):
        size = math.prod(shape)
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        parameter.grad = torch.from_numpy(row[start : start + size].copy()).view(shape)
        named.append((f"tensor{index}", parameter))
        start += size
    return named


def flat(named: list[tuple[str, nn.Parameter]]) -> np.ndarray:
    return np.concatenate([p.grad.numpy().ravel() for _, p in named if p.grad is not None])


def per_case(case: str, name: str, default: object) -> object:
    """Gradients and shapes are shared by all cases unless the file has some of the case's own."""
    return V.arrays.get(f"{name}_{case}", default)


@pytest.mark.parametrize("case", CONFIGS)
def test_official(case: str) -> None:
    known = inspect.signature(ZClip).parameters
    given = {**V.meta["defaults"], **CONFIGS[case]}
    clipper = ZClip(**{name: value for name, value in given.items() if name in known})
    close = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
    got: dict[str, list] = {name: [] for name in ("norms", "mean", "var", "thr", "clipped_norms", "clipped_grads")}
    for step, row in enumerate(per_case(case, "grads", V["grads"])):
        named = named_gradients(row, SHAPES)
        report = clipper.clip_(named, step=step)
        got["norms"].append(float(report.norm))
        got["mean"].append(float(clipper.mean.nan_to_num(-1)))
        got["var"].append(float(clipper.variance.nan_to_num(-1)))
        limit = float(clipper.adaptive_limit)
        got["thr"].append(-1.0 if math.isinf(limit) else limit)
        got["clipped_norms"].append(float(np.linalg.norm(flat(named))))
        got["clipped_grads"].append(flat(named))
    compared = 0
    for name, values in got.items():
        if f"{name}_{case}" in V:
            np.testing.assert_allclose(np.array(values), V[f"{name}_{case}"], **close, err_msg=name)
            compared += 1
    assert compared >= 4
