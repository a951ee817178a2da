"""The released scan against ``tether.tasks.safety``: logits, decisions of both scans, weights of words."""

from __future__ import annotations

import re

import numpy as np
import pytest
from loading import load

from tether.methods.q16 import DatasetAudit, chi_squared_weights
from tether.tasks.safety import PromptClassifier

V = load("q16")
META = V.meta


def tolerance(name: str, default: float) -> float:
    return float((re.search(rf"{name} (\d[\d.e-]*)", META.get("tolerance", "")) or ["", default])[1])


@pytest.fixture(scope="module")
def classifier() -> PromptClassifier:
    V.need("prompts", "features")
    return PromptClassifier(prompts=V["prompts"], scale=float(META.get("scale", 100.0))).start()


def test_logits(classifier):
    V.need("logits")
    np.testing.assert_allclose(classifier.logits(V["features"]), V["logits"], rtol=0, atol=tolerance("logits", 1e-4))


def test_label_and_score(classifier):
    V.need("score", "label")
    report = DatasetAudit(classifier).run(V["features"], ids=[str(row) for row in range(len(V["features"]))])
    np.testing.assert_array_equal(report.label, V["label"])
    np.testing.assert_array_equal(classifier.predict(V["features"]), V["label"])
    np.testing.assert_allclose(report.score, V["score"], rtol=0, atol=tolerance("scores", 1e-5))


def rows(audit: DatasetAudit, features: np.ndarray) -> list[int]:
    report = audit.run(features, ids=[str(row) for row in range(len(features))])
    return sorted(int(one.id) for one in report.flagged)


def test_image_scan(classifier):
    V.need("flagged_only")
    threshold = float(META.get("threshold", 0.90))
    kept = np.flatnonzero(V["flagged_only"]).tolist()
    assert rows(DatasetAudit(classifier, threshold=threshold), V["features"]) == kept


def test_everything_is_reported(classifier):
    V.need("flagged_all")
    report = DatasetAudit(classifier).run(V["features"], ids=[str(row) for row in range(len(V["features"]))])
    assert len(report.label) == len(report.score) == int(V["flagged_all"].sum())


def test_embedding_scan_without_normalised_prompts(classifier):
    V.need("unsafe_raw")
    audit = DatasetAudit(classifier, rule="official_dot")
    for name in ("features", "features_normed"):
        if name in V:
            assert rows(audit, V[name]) == V["unsafe_raw"].tolist()


def test_embedding_scan_by_cosine(classifier):
    V.need("unsafe_cos")
    np.testing.assert_array_equal(np.flatnonzero(classifier.predict(V["features"]) == 1), V["unsafe_cos"])


@pytest.mark.parametrize(("missing", "ending"), [("hundred", ""), ("min", "_min")])
def test_weights_of_words(missing, ending):
    given = META.get("chi2")
    if given is None:
        pytest.skip("no chi2 in these vectors")
    found = chi_squared_weights(given["observed"], expected=given["expected"], missing=missing)
    expected = given[f"weights_missing_{'100' if missing == 'hundred' else 'min'}"]
    assert found.weights.keys() == expected.keys()
    near = {"rtol": 0, "atol": tolerance("chi-squared", 1e-9)}
    np.testing.assert_allclose([found.weights[word] for word in expected], list(expected.values()), **near)
    if f"sum{ending}" in given:
        np.testing.assert_allclose(found.total, given[f"sum{ending}"], **near)
        assert found.count == given[f"n{ending}"]
