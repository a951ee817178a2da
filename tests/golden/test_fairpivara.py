"""FairPIVARA against its released functions: bias, information, candidates, selections and WEAT."""

import math
import re

import numpy as np
import pytest
from loading import load

from tether.methods.fairpivara.association import association_bias, histogram_mi, weat
from tether.methods.fairpivara.fair_dims import DimensionMask, select_dimensions

VECTORS = load("fairpivara")
HYPER = VECTORS.meta["hyper"]
RTOL = float(re.search(r"rtol\s*([0-9.e+-]+)", str(VECTORS.meta["tolerance"])).group(1))
X, POSITIVE, NEGATIVE = VECTORS["X"], VECTORS["text_pleasant"], VECTORS["text_unpleasant"]
WORDS = {"positive": POSITIVE, "negative": NEGATIVE}
pytestmark = pytest.mark.filterwarnings("ignore:.*normalise them first")  # other figures may have other lengths


def close(actual, expected):
    # A sum of many terms that cancel is only as exact as the terms.
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=1e-12 * max(1.0, abs(float(VECTORS["psi"]))))


@pytest.fixture(scope="module", params=["prefix", "official"])
def selection(request):
    settings = {"n": HYPER["n"], "theta": HYPER["theta"], "top_k": HYPER["top_similar"]}
    return request.param, select_dimensions(X, **WORDS, **settings, mode=request.param)


def test_bias():
    close(association_bias(X, **WORDS, top_k=HYPER["top_similar"]), VECTORS["psi"])


def test_most_similar_word():
    """Of one image and its one most similar word the bias is that word's: above 0 for a positive one."""
    VECTORS.need("top1_label")
    bias = [association_bias(row[None], **WORDS, top_k=1) for row in X]
    best = (X @ np.concatenate([NEGATIVE, POSITIVE]).T).max(axis=1)
    close(bias, np.where(VECTORS["top1_label"] == 1, best, -best))


def test_without_each_coordinate(selection):
    VECTORS.need("psi_without_d", "mi", "candidates")
    _, found = selection
    close(found.bias_without, VECTORS["psi_without_d"])
    close(found.mi, VECTORS["mi"])
    np.testing.assert_array_equal(np.sort(VECTORS["candidates"]), found.candidates)


@pytest.mark.parametrize("d", range(X.shape[1]))
def test_mutual_information(d):
    VECTORS.need("mi", "top1_label_without_d")
    labels = VECTORS["top1_label_without_d"][d]
    close(histogram_mi(X[:, d], labels, bins=HYPER["mi_bins"], sigma=HYPER["mi_sigma"]), VECTORS["mi"][d])


def test_selection(selection):
    VECTORS.need("official_removed", "intended_removed", "prefix_bias_true_removal", "prefix_bias_official_last_only")
    mode, found = selection
    np.testing.assert_array_equal(found.listed, VECTORS["official_removed"])
    if mode == "official":
        np.testing.assert_array_equal(found.dims, VECTORS["official_removed"])
        close(found.bias_path, VECTORS["prefix_bias_official_last_only"])
        candidates = [VECTORS["psi"], *found.bias_path]
        close(min(candidates, key=abs), VECTORS["official_best_psi"])
    else:
        np.testing.assert_array_equal(found.dims, VECTORS["intended_removed"])
        close(found.bias_path, VECTORS["prefix_bias_true_removal"])
    if found.dims:
        left = VECTORS["prefix_bias_true_removal"][len(found.dims) - 1]
        close(found.remaining, left)
        mask = DimensionMask(found.dims, X.shape[1])
        cut = [mask.zero(rows) for rows in (X, POSITIVE, NEGATIVE)]
        with pytest.warns(UserWarning, match="length 1"):
            bias = association_bias(cut[0], positive=cut[1], negative=cut[2], top_k=HYPER["top_similar"])
        close(bias, left)


def test_weat_of_halves():
    VECTORS.need("weat_effect_size")
    half = len(X) // 2
    found = weat(X[:half], y=X[half:], a=POSITIVE, b=NEGATIVE, test="none")
    close(found.effect, VECTORS["weat_effect_size"])


def test_weat_exact():
    VECTORS.need("weat_small_s", "weat_small_effect", "weat_small_p_exact")
    size = len(VECTORS["weat_small_s"]) // 2
    found = weat(X[:size], y=X[size : 2 * size], a=POSITIVE, b=NEGATIVE)
    close(found.associations, VECTORS["weat_small_s"])
    close(found.effect, VECTORS["weat_small_effect"])
    assert found.partitions == math.comb(2 * size, size)
    close(found.p, VECTORS["weat_small_p_exact"])
