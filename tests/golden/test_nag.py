"""Guided attention outputs and how far they would grow, against the author's code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.generation.diffuse.nag import growth, nag

V = load("nag")
CLOSE = V.meta["tolerance"]
CASES = list(enumerate(V.meta["cases"]))
Z_POS, Z_NEG = (torch.from_numpy(V[name].copy()) for name in ("z_pos", "z_neg"))


def settings(case: dict) -> dict[str, float]:
    return {name: float(case[name]) for name in ("scale", "tau", "alpha")}


@pytest.mark.parametrize(("number", "case"), CASES)
def test_outputs(number: int, case: dict) -> None:
    np.testing.assert_allclose(nag(Z_POS, Z_NEG, **settings(case)).numpy(), V[f"c{number}.out"], **CLOSE)
    if f"c{number}.out_l2norm" in V:
        out = nag(Z_POS, Z_NEG, **settings(case), p=2)
        np.testing.assert_allclose(out.numpy(), V[f"c{number}.out_l2norm"], **CLOSE)


@pytest.mark.parametrize(("number", "case"), CASES)
def test_growth(number: int, case: dict) -> None:
    ratio = growth(Z_POS, Z_NEG, scale=float(case["scale"]))[1]
    np.testing.assert_allclose(ratio.numpy(), V[f"c{number}.ratio_l1"], **CLOSE)


def test_there_are_cases() -> None:
    assert CASES
