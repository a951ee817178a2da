"""AutoClip against the released autoclip.py: every percentile and every case that the file has."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from loading import load
from torch import nn

from tether.methods.autoclip import AutoClip

V = load("autoclip")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
NAME = re.compile(r"(?P<before>(?:.*_)?)thr(?P<percentile>_p\d+(?:[._]\d+)?)?(?P<after>(?:_.*)?)")
RUNS = sorted(name for name in V.arrays if NAME.fullmatch(name))
"""``thr_p10``; with more before or after it, a case that may have gradients of its own. One without a percentile in its
name has it in the ``meta`` of its case."""


def pieces(run: str) -> tuple[str, str, str]:
    match = NAME.fullmatch(run)
    assert match is not None
    return match["before"], match["percentile"] or "", match["after"]


def percentile_of(run: str) -> float:
    before, percentile, after = pieces(run)
    if percentile:
        return float(percentile.removeprefix("_p").replace("_", "."))
    return float(V.meta[(before + after).strip("_")]["percentile"])


def of_case(name: str, run: str, *, by_percentile: bool = False) -> np.ndarray | None:
    """The array of this name that is nearest to the run: its own, else what all runs share."""
    before, percentile, after = pieces(run)
    if by_percentile:
        for key in (f"{before}{name}{percentile}{after}", f"{before}{name}{after}{percentile}"):
            if key in V:
                return V[key]
        return None
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
    """All gradients, zeros for tensors without one."""
    return np.concatenate(
        [(torch.zeros_like(p) if p.grad is None else p.grad).detach().numpy().ravel() for _, p in named]
    )


@pytest.mark.parametrize("run", RUNS)
def test_official(run: str) -> None:
    clipper = AutoClip(percentile_of(run))
    grads, norms = of_case("grads", run), of_case("norms", run)
    assert grads is not None
    if norms is None or len(norms) != len(grads):
        norms = np.linalg.norm(grads, axis=1)
    got: dict[str, list] = {"norms": [], "thr": [], "clipped_norms": [], "clipped_grads": []}
    for step, row in enumerate(grads):
        named = given_gradients(row, norm=norms[step])
        report = clipper.clip_(named, step=step)
        assert bool(report.skip) != math.isfinite(norms[step])
        got["norms"].append(float(report.norm))
        got["thr"].append(float(report.threshold))
        got["clipped_norms"].append(float(np.linalg.norm(flat(named))))
        got["clipped_grads"].append(flat(named))
    finite = np.isfinite(norms)
    np.testing.assert_allclose(np.array(got.pop("norms"))[finite], norms[finite], **CLOSE)
    np.testing.assert_allclose(np.array(got.pop("thr"))[finite], V[run][finite], **CLOSE)
    compared = 0
    for name, values in got.items():
        wanted = of_case(name, run, by_percentile=True)
        if wanted is not None:
            # NaN stands for a tensor without gradient, or for a step that is left out: both are zeros here.
            np.testing.assert_allclose(np.array(values), np.nan_to_num(wanted), **CLOSE, err_msg=name)
            compared += 1
    assert compared


def test_every_percentile_of_the_file_is_run() -> None:
    assert {float(percentile) for percentile in V.meta.get("percentiles", ())} <= set(map(percentile_of, RUNS))
