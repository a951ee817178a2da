"""Outlier coordinates, anisotropy and self-similarity against an independent transcription: all from the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from loading import load

from tether.methods.positional_artefacts import OutlierClipper, anisotropy, self_similarity
from tether.space import clip_dims, extreme_shares, outlier_dims

V = load("positional-artefacts")
CLOSE = V.meta["tolerance"]
Z = float(V.meta["hyper"]["z"])


def test_outliers() -> None:
    found = outlier_dims(V["hidden"], z=Z)
    np.testing.assert_allclose(found.mean, V["mean_vec"], **CLOSE)
    np.testing.assert_allclose(found.z, V["z"], **CLOSE)
    np.testing.assert_array_equal(found.flagged, V["flag"])
    np.testing.assert_array_equal(found.dims, V["outliers_all"])


def test_extreme_shares() -> None:
    shares = extreme_shares(V["hidden"])
    np.testing.assert_allclose(shares.least, V["argmin_share"], **CLOSE)
    np.testing.assert_allclose(shares.most, V["argmax_share"], **CLOSE)


@pytest.mark.parametrize(
    ("name", "measure"),
    [("aniso", anisotropy), ("selfsim", lambda layer: self_similarity(layer, V["word"]))],
)
def test_similarities_before_and_after_clipping(name: str, measure: Callable[[np.ndarray], float]) -> None:
    clipped = clip_dims(V["hidden"], dims=outlier_dims(V["hidden"], z=Z).dims)
    np.testing.assert_allclose([measure(layer) for layer in V["hidden"]], V[name], **CLOSE)
    np.testing.assert_allclose([measure(layer) for layer in clipped], V[f"{name}_clip"], **CLOSE)


def test_the_estimator_finds_a_layers_own() -> None:
    for layer, flagged, scores in zip(V["hidden"], V["flag"], V["z"], strict=True):
        clipper = OutlierClipper(z=Z).fit(layer)
        np.testing.assert_array_equal(clipper.dims_, np.flatnonzero(flagged))
        np.testing.assert_allclose(clipper.z_, scores, **CLOSE)
        np.testing.assert_array_equal(clipper.transform(layer), clip_dims(layer, dims=np.flatnonzero(flagged)))
