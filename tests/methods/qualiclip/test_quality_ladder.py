"""The rank correlation of scores with levels of degradation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.qualiclip.quality_ladder import ladder_correlations, level_order
from tether.tasks.quality import sharpness


def test_it_is_scipy_s() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 5)).round(1)
    expected = [spearmanr(row, np.arange(5)).statistic for row in scores]
    np.testing.assert_allclose(ladder_correlations(scores), expected, atol=1e-12)


def test_blurred_photos_are_less_sharp() -> None:
    photos = list(torch.randint(0, 256, (3, 3, 40, 50), generator=torch.Generator().manual_seed(0)).byte())
    kinds = ["gaublur", "lensblur", "jpeg"]

    def score(some: Sequence[Tensor]) -> Tensor:
        return torch.tensor([sharpness(one) for one in some])

    measured = level_order(score, photos, kinds=kinds, sized_for=None)
    assert measured.shape == (3, 5)
    assert (ladder_correlations(measured) < -0.95).all()
    assert (measured == level_order(score, photos, kinds=kinds, sized_for=None)).all()


def test_refused() -> None:
    with pytest.raises(InputError, match="one for each"):
        level_order(lambda some: torch.zeros(len(some)), [torch.zeros(3, 8, 8, dtype=torch.uint8)], kinds=[])
    with pytest.raises(InputError, match="finite"):
        ladder_correlations(np.array([[1.0, np.nan]]))
