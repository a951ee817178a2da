from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.clipped_sgd_bias.clipping_bias import clipped_sgd, two_point_stationary_point

V = load("clipped-sgd-bias")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}


def skew(p: float) -> float:
    return math.sqrt(p / (1 - p))


@pytest.mark.parametrize("row", range(len(V["floor_sigma"])))
@pytest.mark.parametrize("column", range(len(V["floor_c"])))
def test_where_single_samples_settle(row: int, column: int) -> None:
    sigma, c = float(V["floor_sigma"][row]), float(V["floor_c"][column])
    got = two_point_stationary_point(sigma, c=c, u=skew(float(V["floor_p"][row, column])))
    np.testing.assert_allclose(got, V["floor_x"][row, column], **CLOSE)


@pytest.mark.parametrize("place", range(len(V["mb_B"])))
def test_where_mini_batches_settle(place: int) -> None:
    words = V.meta["mb"]
    row, column = (int(re.search(rf"{name}_(\d+)", words)[1]) for name in ("sigma", "c"))
    skewed = re.search(r"p_(\d)(\d)", words)
    p = float(V["floor_p"][int(skewed[1]), int(skewed[2])])
    got = two_point_stationary_point(
        float(V["floor_sigma"][row]), c=float(V["floor_c"][column]), u=skew(p), batch_size=int(V["mb_B"][place])
    )
    np.testing.assert_allclose(got, V["mb_x"][place], **CLOSE)


@pytest.mark.parametrize("case", [name.removeprefix("traj_") for name in V.arrays if name.startswith("traj_")])
def test_trajectory(case: str) -> None:
    settings = V.meta["traj"]
    matrix, noise = torch.from_numpy(V["A"]), torch.from_numpy(V["noise"])
    exact = case == "det"
    points = clipped_sgd(
        lambda x: x @ matrix.T,
        x0=torch.from_numpy(V["x0"]),
        noise=torch.zeros_like(noise) if exact else noise,
        lr=settings["lr"],
        c=settings["c"],
        mode="batch" if exact else case,  # pyrefly: ignore
    )
    np.testing.assert_allclose(points.numpy(), V[f"traj_{case}"], **CLOSE)
