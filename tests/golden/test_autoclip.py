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
NAME = re.compile(r"(?P<before>.*)thr_(?P<percentile>p\d+(?:[._]\d+)?)(?P<after>.*)")
RUNS = sorted(name for name in V.arrays if NAME.fullmatch(name))
"""``thr_p10``; with more before or after it, a case that may have gradients and shapes of its own."""


def of_case(name: str, run: str, *, by_percentile: bool = False) -> np.ndarray | None:
    """The array of this name that is nearest to the run: its own, else what all runs share."""
    match = NAME.fullmatch(run)
    assert match is not None
    before, percentile, after = match["before"], match["percentile"], match["after"]
    if by_percentile:
        return V.arrays.get(f"{before}{name}_{percentile}{after}")
    for key in (f"{before}{name}{after}", f"{before}{name}", f"{name}{after}", name):
        if key in V:
            return V[key]
    return None


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
    match = NAME.fullmatch(run)
    assert match is not None
    clipper = AutoClip(float(match["percentile"].removeprefix("p").replace("_", ".")))
    grads, norms = of_case("grads", run), of_case("norms", run)
    assert grads is not None
    assert norms is not None
    assert len(grads) == len(norms)
    got: dict[str, list] = {"norms": [], "thr": [], "clipped_norms": [], "clipped_grads": []}
    for step, row in enumerate(grads):
        named = given_gradients(row, norm=norms[step])
        report = clipper.clip_(named, step=step)
        assert bool(report.skip) != math.isfinite(norms[step])
        got["norms"].append(float(report.norm))
        got["thr"].append(float(report.threshold))
        got["clipped_norms"].append(float(np.linalg.norm(np.nan_to_num(flat(named)))))
        got["clipped_grads"].append(flat(named))
    finite = np.isfinite(norms)
    np.testing.assert_allclose(np.array(got.pop("norms"))[finite], norms[finite], **CLOSE)
    np.testing.assert_allclose(np.array(got.pop("thr"))[finite], V[run][finite], **CLOSE)
    compared = 0
    for name, values in got.items():
        wanted = of_case(name, run, by_percentile=True)
        if wanted is not None:
            np.testing.assert_allclose(np.array(values), wanted, **CLOSE, err_msg=name)
            compared += 1
    assert compared


def test_every_percentile_of_the_file_is_run() -> None:
    ran = {
        float(match["percentile"].removeprefix("p").replace("_", ".")) for match in map(NAME.fullmatch, RUNS) if match
    }
    assert {float(percentile) for percentile in V.meta["percentiles"]} <= ran
