"""AutoClip against the released autoclip.py: every percentile and every case that the file has."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.optim.clip import AutoClip

V = load("autoclip")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"], "equal_nan": True}
RUNS = sorted(match for name in V.arrays if (match := name.removeprefix("thr_")) != name)
"""``p10``, or ``p10_CASE`` where a case has gradients of its own."""


def of_case(name: str, run: str) -> np.ndarray:
    case = run.partition("_")[2]
    return V.arrays.get(f"{name}_{case}", V[name])


def given_gradients(row: np.ndarray, *, norm: float) -> list[tuple[str, nn.Parameter]]:
    """One step's gradients. A tensor of NaN beside a finite norm stands for one that has no gradient."""
    named, start = [], 0
    for index, shape in enumerate(V.meta["shapes"]):
        size = math.prod(shape)
        part = row[start : start + size]
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        if not (np.isnan(part).all() and math.isfinite(norm)):
            parameter.grad = torch.from_numpy(part.copy()).view(shape)
        named.append((f"tensor{index}", parameter))
        start += size
    return named


def flat(named: list[tuple[str, nn.Parameter]]) -> np.ndarray:
    return np.concatenate(
        [(p.grad if p.grad is not None else torch.full(p.shape, math.nan)).numpy().ravel() for _, p in named]
    )


@pytest.mark.parametrize("run", RUNS)
def test_official(run: str) -> None:
    number = re.match(r"p([\d.]+)", run)
    assert number is not None
    clipper = AutoClip(float(number[1]))
    norms = of_case("norms", run)
    got: dict[str, list] = {"thr": [], "clipped_norms": [], "clipped_grads": []}
    seen = []
    for step, row in enumerate(of_case("grads", run)):
        named = given_gradients(row, norm=norms[step])
        report = clipper.clip_(named, step=step)
        seen.append(float(report.norm))
        got["thr"].append(float(report.threshold))
        got["clipped_norms"].append(float(np.linalg.norm(np.nan_to_num(flat(named)))))
        got["clipped_grads"].append(flat(named))
        assert bool(report.skip) != math.isfinite(norms[step])
    finite = np.isfinite(norms)
    np.testing.assert_allclose(np.array(seen)[finite], norms[finite], **CLOSE)
    compared = 0
    for name, values in got.items():
        if f"{name}_{run}" in V:
            np.testing.assert_allclose(np.array(values), V[f"{name}_{run}"], **CLOSE, err_msg=name)
            compared += 1
    assert compared >= 2
