"""Masks of one class everywhere, and what is held against them."""

from __future__ import annotations

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.evaluate.dense import MaskScores
from tether.evaluate.one_class import OneClass

CLASSES = ("road", "sky", "car")


def test_it_reaches_what_masks_of_the_most_common_class_reach() -> None:
    rng = np.random.default_rng(0)
    scores, pixels = MaskScores(CLASSES), np.zeros(256, dtype=int)
    for _ in range(4):
        truth = rng.choice([0, 1, 1, 2, 255], (9, 11)).astype(np.uint8)
        scores.add(np.ones_like(truth), truth=truth)
        pixels += np.bincount(truth.ravel(), minlength=256)
    found, report = OneClass.of(dict(zip(CLASSES, pixels.tolist()[:3], strict=True))), scores.report()
    assert found.name == "sky"
    assert found.accuracy == pytest.approx(report.accuracy.value)
    assert found.miou == pytest.approx(report.miou.value)
    assert found.verdict(report).endswith("; mIoU and pixel accuracy not shown to be better than that")


def test_masks_that_are_better_have_no_remark() -> None:
    scores = MaskScores(CLASSES)
    for number in range(3):
        truth = np.full((4, 4), number, dtype=np.uint8)
        truth[0] = 0
        scores.add(truth, truth=truth)
    told = OneClass.of({"road": 24, "sky": 12, "car": 12}).verdict(scores.report())
    assert told == "road at every pixel would have mIoU 16.7%, pixel accuracy 50.0%"


def test_labels_without_a_class_are_refused() -> None:
    with pytest.raises(InputError, match="no image with a labelled pixel"):
        OneClass.of({"road": 0, "sky": 0})
