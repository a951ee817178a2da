"""FairerCLIP against its released code: every solve in order, held-out codes, predictions, and one of three classes."""

import re

import numpy as np
import pytest
from loading import load

from tether.methods.fairerclip import FairerClip, FairerKernels, RandomFeatures, hsic_solve
from tether.methods.fairerclip.hsic import plus_minus

VECTORS = load("fairerclip")
HYPER = VECTORS.meta["hyper"]
RTOL = float(re.search(r"rtol\s*([0-9.e+-]+)", str(VECTORS.meta["tolerance"])).group(1))
STEPS = sorted(
    (int(match.group(1)), match.group(2))
    for name in VECTORS.arrays
    if (match := re.fullmatch(r"step(\d+)_(img|txt)_U", name))
)


def close(actual, expected):
    """Equal up to one sign for each column."""
    expected = np.asarray(expected)
    sign = np.where((actual * expected).sum(axis=0) < 0, -1.0, 1.0)
    np.testing.assert_allclose(actual * sign, expected, rtol=RTOL, atol=RTOL * np.abs(expected).max())


def features(side, what):
    return RandomFeatures(VECTORS[f"rff_{side}_{what}_w"], VECTORS[f"rff_{side}_{what}_b"])


@pytest.fixture(scope="module")
def fitted():
    kernels = FairerKernels(features("img", "x"), features("txt", "x"), features("img", "z"), features("txt", "z"))
    settings = {
        "dim": HYPER["dim_z"],
        "tau_image": (HYPER["tau_i"], HYPER["tau_z_i"]),
        "tau_text": (HYPER["tau_t"], HYPER["tau_z_t"]),
        "gamma": (HYPER["gamma_i"], HYPER["gamma_t"]),
        "n_iter": HYPER["iters"],
    }
    model = FairerClip(**settings, kernels=kernels)
    return model.fit_unlabelled(VECTORS["X"], s=VECTORS["s"], text_features=VECTORS["text"], start=VECTORS["y"])


def test_as_many_solves(fitted):
    assert len(fitted.solves_) == len(STEPS) > 0


@pytest.mark.parametrize(("number", "side"), STEPS)
def test_solve(fitted, number, side):
    solve = fitted.solves_[number]
    VECTORS.need(*(f"step{number}_{side}_{what}" for what in ("U", "Z", "ylab")))
    assert solve.side == {"img": "image", "txt": "text"}[side]
    np.testing.assert_array_equal(solve.labels, VECTORS[f"step{number}_{side}_ylab"])
    close(solve.found.directions, VECTORS[f"step{number}_{side}_U"])
    close(solve.codes, VECTORS[f"step{number}_{side}_Z"])


def test_held_out_codes_and_predictions(fitted):
    VECTORS.need("X_test", "z_image_test", "z_text", "pred_test")
    close(fitted.transform_image(VECTORS["X_test"]), VECTORS["z_image_test"])
    close(fitted.transform_text(VECTORS["text"]), VECTORS["z_text"])
    np.testing.assert_array_equal(fitted.predict(VECTORS["X_test"]), VECTORS["pred_test"])


def test_rank_of_a_single_solve():
    VECTORS.need("tri_X", "tri_y", "tri_s", "tri_tau", "tri_U", "tri_Z")
    expected = VECTORS["tri_U"]
    phi = features("img", "x")(VECTORS["tri_X"])
    classes, attributes = (int(VECTORS[name].max()) + 1 for name in ("tri_y", "tri_s"))
    found = hsic_solve(
        phi,
        y=plus_minus(VECTORS["tri_y"], classes=classes),
        s=plus_minus(VECTORS["tri_s"], classes=attributes),
        tau=(float(VECTORS["tri_tau"]), 0.0),
        gamma=HYPER["gamma_i"],
        dim=expected.shape[1],
    )
    assert found.rank == int(expected.any(axis=0).sum())
    close(found.directions, expected)
    close(phi @ found.directions, VECTORS["tri_Z"])
