"""Conformity, shell and vSLERP against the figures: every case, place and tolerance from the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from loading import load

from tether.methods.double_ellipsoid import shell_stats, vslerp
from tether.space import ConformityEstimator, conformity
from tether.space.conformity import pearson

V = load("double-ellipsoid")
CLOSE = V.meta["tolerance"]
TABLES = sorted(name.removesuffix("_feat") for name in V.arrays if name.endswith("_feat"))
WALKS = sorted(name for name in V.arrays if re.fullmatch(r".+_vslerp_t[^_]+_m[^_]+", name))
tables = pytest.mark.parametrize("table", TABLES)


def close(got, name: str) -> None:
    if name in V:
        np.testing.assert_allclose(got, V[name], **CLOSE)


def test_there_are_cases():
    assert TABLES
    assert WALKS


@tables
def test_conformity(table: str):
    features = V[f"{table}_feat"]
    close(conformity(features), f"{table}_conformity_exact")
    close(conformity(features, chunk=5), f"{table}_conformity_exact")
    close(conformity(features, method="unit_mean"), f"{table}_conformity_est")


@tables
def test_line_through_the_cosine_to_the_raw_mean(table: str):
    features = V[f"{table}_feat"]
    estimator = ConformityEstimator(mean="raw").fit(features)
    close((estimator.a_, estimator.b_), f"{table}_affine_fit")
    if f"{table}_cos_raw_mean" in V:
        np.testing.assert_allclose(
            estimator.predict(features), estimator.a_ * V[f"{table}_cos_raw_mean"] + estimator.b_, **CLOSE
        )
    if f"{table}_pearson" in V:
        np.testing.assert_allclose(estimator.score(features), np.abs(V[f"{table}_pearson"]), **CLOSE)


@tables
def test_the_mean_of_unit_rows_gives_it_exactly(table: str):
    features = V[f"{table}_feat"]
    estimator = ConformityEstimator(mean="unit").fit(features)
    close((estimator.a_, estimator.b_), f"{table}_affine_unitmean")
    close(estimator.predict(features), f"{table}_conformity_exact")


@tables
def test_shell(table: str):
    if f"{table}_centred_norm" not in V:
        return
    radius, shell = V[f"{table}_centred_norm"], shell_stats(V[f"{table}_feat"])
    found = (shell.mean_radius, shell.std_radius, shell.least_radius)
    np.testing.assert_allclose(found, (radius.mean(), radius.std(), radius.min()), **CLOSE)


@pytest.mark.parametrize("name", WALKS)
def test_walk_around_the_mean(name: str):
    case, t, mu = re.fullmatch(r"(.+)_vslerp_t([^_]+)_m([^_]+)", name).groups()
    features = V[f"{case}_img_feat"]
    walked = vslerp(features[0], end=features[1], t=[float(t)], mean=features.mean(axis=0), mu=float(mu))
    close(walked[0], name)


def test_pearson_is_that_of_cosine_and_exact_conformity():
    for table in TABLES:
        if {f"{table}_pearson", f"{table}_cos_raw_mean", f"{table}_conformity_exact"} <= V.arrays.keys():
            close(pearson(V[f"{table}_cos_raw_mean"], V[f"{table}_conformity_exact"]), f"{table}_pearson")
