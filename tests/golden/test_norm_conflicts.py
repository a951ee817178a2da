"""Pairs of clauses against the official combination, centres, distances and SVM; everything from the file."""

from __future__ import annotations

import numpy as np
import pytest
from loading import load

from tether.evaluate.norms import evaluate_pairs
from tether.methods.norm_conflicts import CentroidConflict, ConflictClassifier

V = load("norm-conflicts")
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def part(name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = V[name]
    return V["emb"][V["pairs"]][rows], V["y"][rows]


@pytest.mark.parametrize("how", ["offset", "concat", "mean"])
@pytest.mark.parametrize(("distance", "short"), [("euclidean", "euc"), ("cosine", "cos")])
def test_centroids(how, distance, short):
    if f"{how}_{short}" not in V.arrays:
        V.need(f"{how}_{short}")
    found = CentroidConflict(mode=how, distance=distance).fit(*part("train"))
    np.testing.assert_allclose(found.conflict_, V[f"{how}_centre_conflict"], **CLOSE)
    np.testing.assert_allclose(found.other_, V[f"{how}_centre_other"], **CLOSE)
    pairs, _ = part("test")
    np.testing.assert_allclose(found.distances(pairs), V[f"{how}_{short}"], **CLOSE)
    np.testing.assert_array_equal(found.predict(pairs), V[f"{how}_{short}_pred"])


@pytest.mark.parametrize("how", ["offset", "concat"])
def test_svm(how):
    V.need(f"svm_{how}_pred", f"svm_{how}_scores")
    found = ConflictClassifier(mode=how, tol=1e-6).fit(*part("train"))
    pairs, labels = part("test")
    said, margin = found.predict(pairs), np.abs(V[f"svm_{how}_margin"])
    sure = (margin if margin.ndim == 1 else np.sort(margin, axis=1)[:, -1]) > 1e-3
    np.testing.assert_array_equal(said[sure], V[f"svm_{how}_pred"][sure])
    if found.decision_function(pairs).shape == V[f"svm_{how}_margin"].shape:
        np.testing.assert_allclose(found.decision_function(pairs), V[f"svm_{how}_margin"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(evaluate_pairs(labels, V[f"svm_{how}_pred"]), V[f"svm_{how}_scores"], **CLOSE)
