"""AdaGC and GlobalAdaGC against the released classes: every case that the file has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.methods.adagc import AdaGC

V = load("adagc")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
CONFIGS: dict[str, dict[str, Any]] = V.meta["configs"]
SIZES = [math.prod(shape) for shape in V.meta["shapes"]]


def settings(case: str) -> dict[str, Any]:
    """Our keywords. The released classes count zeros; only a case that shows the wanted fix does not."""
    values = {**V.meta["defaults"], **CONFIGS[case]}
    own = {name: values[name] for name in ("clip_ratio", "beta", "max_norm", "eps")}
    fixed = values.get("ignore_zero", "skip" in case)
    return {
        **own,
        "warmup_steps": values["start_clip_steps"],
        "scope": "global" if "global" in values.get("cls", "").lower() else "tensor",
        "ignore_zero": bool(fixed),
    }


def gradients(case: str) -> np.ndarray:
    for name in (CONFIGS[case].get("grads"), f"grads_{case}", "grads_zero" if case.startswith("zero") else None):
        if isinstance(name, str) and name in V:
            return V[name]
    return V["grads"]


def has_gradient(rows: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """(S, P) whether each tensor had a gradient in each step.

    It had none where its numbers are NaN, where it has no statistic afterwards, and where its numbers are zero and its
    statistic stayed as it was (a zero that did not count does the same).
    """
    parts = np.split(rows, np.cumsum(SIZES)[:-1], axis=1)
    unknown = np.stack([np.isnan(part).all(axis=1) for part in parts], axis=1)
    if gamma.ndim == 1:
        return ~unknown
    zero = np.stack([(part == 0).all(axis=1) for part in parts], axis=1)
    stayed = np.concatenate([np.zeros((1, len(SIZES)), dtype=bool), gamma[1:] == gamma[:-1]])
    return ~(unknown | (gamma == -1) | (zero & stayed))


def given_gradients(row: np.ndarray, *, given: np.ndarray) -> list[tuple[str, nn.Parameter]]:
    named, start = [], 0
    for index, shape in enumerate(V.meta["shapes"]):
        size = math.prod(shape)
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        if given[index]:
            parameter.grad = torch.from_numpy(row[start : start + size].copy()).view(shape)
        named.append((f"tensor{index}", parameter))
        start += size
    return named


@pytest.mark.parametrize("case", CONFIGS)
def test_official(case: str) -> None:
    keywords = settings(case)
    clipper = AdaGC(**keywords)
    whole = keywords["scope"] == "global"
    rows = gradients(case)
    given = has_gradient(rows, V[f"gamma_{case}"])
    got: dict[str, list] = {name: [] for name in ("total", "gamma", "clipped_norms", "clipped_grads")}
    for step, row in enumerate(rows):
        named = given_gradients(row, given=given[step])
        report = clipper.clip_(named, step=step)
        assert not report.skip
        clipped = whole and step >= keywords["warmup_steps"]
        got["total"].append(float(torch.minimum(report.norm, report.threshold) if clipped else report.norm))
        names = [""] if whole else [name for name, _ in named]
        gamma = [clipper.gamma.get(name, -1.0) for name in names]
        got["gamma"].append(gamma[0] if whole else gamma)
        tensors = [p.grad if p.grad is not None else torch.zeros_like(p) for _, p in named]
        got["clipped_norms"].append([float(tensor.norm()) for tensor in tensors])
        got["clipped_grads"].append(np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors]))
    compared = 0
    for name, values in got.items():
        if f"{name}_{case}" in V:
            expected = V[f"{name}_{case}"]
            if name.startswith("clipped"):  # whatever stands there for a tensor without gradient is nothing of ours
                expected = np.where(given if name == "clipped_norms" else given.repeat(SIZES, axis=1), expected, 0.0)
            np.testing.assert_allclose(np.array(values), expected, **CLOSE, err_msg=name)
            compared += 1
    assert compared >= 3
