"""Spearman's correlation of several ways, over groups, with its bootstrap; and the order of images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from tether.core.errors import InputError
from tether.core.image_order import ImageOrder
from tether.evaluate.order import order_correlation


def test_is_spearmans_with_ties_and_the_mean_over_groups() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 5, (40, 2)).astype(float), rng.integers(0, 6, 40).astype(float)
    groups = np.repeat([3, 7, 9], [25, 13, 2])  # a group of two does not count
    found = order_correlation(scores, targets=targets, groups=groups, resamples=200)
    wanted = [
        np.mean([spearmanr(scores[groups == one, way], targets[groups == one]).statistic for one in (3, 7)])
        for way in (0, 1)
    ]
    np.testing.assert_allclose(found.value, wanted)
    low, high = found.interval(1)
    assert low < wanted[1] < high
    assert (found.n, found.draws.shape) == (38, (200, 2))


def test_one_score_for_all_is_chance() -> None:
    found = order_correlation(np.ones((5, 1)), targets=np.arange(5.0), resamples=10)
    assert found.value.tolist() == [0.0]


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.ones((3, 1)), np.ones(2), "expected"),
        (np.ones((2, 1)), np.ones(2), "at least 3 images"),
        (np.full((3, 1), np.nan), np.ones(3), "finite"),
    ],
)
def test_bad_scores(scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        order_correlation(scores, targets=targets)


def test_an_order_needs_two_images_and_finite_scores() -> None:
    assert ImageOrder(("a", "b", "c"), np.array([1.0, 2.0, 1.0])).order.tolist() == [1, 0, 2]
    for keys, scores, message in [
        (("a",), [1.0], "at least two images to order, got 1"),
        (("a", "b"), [1.0], "a score for each"),
        (("a", "b"), [1.0, np.nan], "'b': its score"),
    ]:
        with pytest.raises(InputError, match=message):
            ImageOrder(keys, np.array(scores))
