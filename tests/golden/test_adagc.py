"""AdaGC and GlobalAdaGC against the released classes: every case that the file has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.optim.clip import AdaGC

V = load("adagc")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
CONFIGS: dict[str, dict[str, Any]] = V.meta["configs"]
SIZES = [math.prod(shape) for shape in V.meta["shapes"]]
SCOPES = {"AdaGC": "tensor", "GlobalAdaGC": "global"}


def settings(case: str) -> dict[str, Any]:
    """Our keywords. The released classes count zeros; only a case that shows the wanted fix does not."""
    values = {**V.meta["defaults"], **CONFIGS[case]}
    own = {name: values[name] for name in ("clip_ratio", "beta", "max_norm", "eps")}
    fixed = values.get("ignore_zero", "skip" in case)
    return {
        **own,
        "warmup_steps": values["start_clip_steps"],
        "scope": SCOPES.get(values.get("cls", "AdaGC"), "tensor"),
        "ignore_zero": bool(fixed),
    }


def gradients(case: str) -> np.ndarray:
    for name in (CONFIGS[case].get("grads"), f"grads_{case}", "grads_zero" if case.startswith("zero") else None):
        if isinstance(name, str) and name in V:
            return V[name]
    return V["grads"]


def given_gradients(row: np.ndarray, *, given: np.ndarray) -> list[tuple[str, nn.Parameter]]:
    """One step's parameters; one without a statistic after the step had no gradient, or a zero that did not count."""
    named, start = [], 0
    for index, shape in enumerate(V.meta["shapes"]):
        size = math.prod(shape)
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        if given[index]:
            parameter.grad = torch.from_numpy(np.nan_to_num(row[start : start + size])).view(shape)
        named.append((f"tensor{index}", parameter))
        start += size
    return named


@pytest.mark.parametrize("case", CONFIGS)
def test_official(case: str) -> None:
    keywords = settings(case)
    clipper = AdaGC(**keywords)
    wanted = V[f"gamma_{case}"]
    whole = keywords["scope"] == "global"
    given = np.ones((len(wanted), len(SIZES)), dtype=bool) if whole else wanted != -1
    got: dict[str, list] = {name: [] for name in ("total", "gamma", "clipped_norms", "clipped_grads")}
    for step, row in enumerate(gradients(case)):
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
