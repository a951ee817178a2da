"""Whitening against the released functions: every array of w-clip.npz, every case and tolerance from the file."""

import re

import numpy as np
import pytest
from loading import load

from tether.space import Whitener, circle_slerp, redundant_features
from tether.space.slerp import angle

VECTORS = load("w-clip")
CASES = sorted(
    {name.split("_", 1)[0] for name in VECTORS.arrays if name.endswith("_x")}, key=lambda case: int(case[1:])
)
TOLERANCE = VECTORS.meta["tolerance"]
THRESHOLD = float(re.search(r"correlation > ([0-9.]+)", VECTORS.meta["map"]["highcorr_drop"]).group(1))


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE["rtol"], atol=TOLERANCE["atol"])


@pytest.fixture(scope="module", params=CASES)
def case(request):
    arrays = {n.split("_", 1)[1]: a for n, a in VECTORS.arrays.items() if n.startswith(f"{request.param}_")}
    # The released figures whiten with every feature in place; redundant ones are only listed.
    return arrays, Whitener(corr_threshold=None).fit(arrays["x"])


def test_there_are_cases():
    assert CASES


def test_mean_and_spectrum(case):
    arrays, whitener = case
    close(whitener.mean_, arrays["mean"])
    close(whitener.eigenvalues_, arrays["eig"])


def test_matrix(case):
    arrays, whitener = case
    close(whitener.components_ @ whitener.components_.T, arrays["wwT"])
    close(np.abs(whitener.components_), arrays["absW"])


def test_training_rows(case):
    arrays, whitener = case
    close(whitener.mahalanobis(arrays["x"]) ** 2, arrays["sqnorm_train"])
    close(np.cov(whitener.transform(arrays["x"]), rowvar=False), arrays["cov_white"])


def test_log_likelihood(case):
    arrays, whitener = case
    close(whitener.log_likelihood(arrays["query"]), arrays["loglik"])


def test_angle_of_first_two_rows(case):
    arrays, whitener = case
    first, second = whitener.transform(arrays["x"][:2])
    close(np.cos(angle(first, end=second)), arrays["cos_w01"])


def test_circle(case):
    arrays, whitener = case
    degrees = sorted(int(name.removeprefix("circle")) for name in arrays if name.startswith("circle"))
    walked = circle_slerp(arrays["x"][0], target=arrays["x"][1], degrees=degrees, whitener=whitener)
    for place, degree in zip(walked, degrees, strict=True):
        close(place, arrays[f"circle{degree}"])


def test_redundant_features(case):
    arrays, _ = case
    np.testing.assert_array_equal(redundant_features(arrays["x"], threshold=THRESHOLD), arrays["highcorr_drop"])
    np.testing.assert_array_equal(Whitener(corr_threshold=THRESHOLD).fit(arrays["x"]).dropped_, arrays["highcorr_drop"])
