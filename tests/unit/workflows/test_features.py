"""A model in scikit-learn's pipelines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import tether
from tether.core.errors import InputError
from tether.workflows.features import ClipFeatures


@pytest.fixture(scope="module")
def model():
    return tether.load("tiny", random_weights=True)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [np.full((32, 32, 3), (200, 30, 30) if n % 2 else (30, 30, 200), np.uint8) + rng.integers(
        0, 20, (32, 32, 3), dtype=np.uint8) for n in range(20)]  # fmt: skip


def test_a_probe_in_a_pipeline(model, images):
    scores = cross_val_score(make_pipeline(ClipFeatures(model), LogisticRegression()), images, [0, 1] * 10, cv=4)
    assert scores.mean() == 1


def test_rows_are_those_of_embed(model, images):
    features = ClipFeatures(model, batch_size=3).fit()
    rows = features.transform([*images, "a red square"])
    assert np.allclose(rows, model.embed([*images, "a red square"]), atol=1e-5)
    assert len(features.get_feature_names_out()) == rows.shape[1] == model.dim


def test_kept_rows_are_the_same_and_are_computed_once(model, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    rows = ClipFeatures(model).fit().transform([*images, "a red square"])
    for computed in (21, 0):
        features = ClipFeatures(model, cache=True).fit()
        assert np.allclose(features.transform([*images, "a red square"]), rows, atol=1e-5)
        assert sum(features.encoder_.computed.values()) == computed


def test_cloned_set_and_pickled(model):
    features = clone(ClipFeatures("starter", batch_size=8))
    assert features.get_params() == {"model": "starter", "batch_size": 8, "device": "auto", "cache": False}
    assert pickle.loads(pickle.dumps(features.set_params(batch_size=2))).batch_size == 2


def test_bad_things_are_named(model, images):
    with pytest.raises(InputError, match=r"thing 1 \(counted from 0\)"):
        ClipFeatures(model).fit().transform([images[0], 3.5])
    with pytest.raises(InputError, match="no such model"):
        ClipFeatures("no/such/model").fit()
