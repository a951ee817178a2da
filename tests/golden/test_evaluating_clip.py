"""The bias probes against an independent transcription: rates with their intervals, a shorter list, label tables."""

import re

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.evaluating_clip import harm_rates, label_association

VECTORS = load("evaluating-clip")
TOLERANCE = VECTORS.meta["tolerance"]
SCALE = float(re.search(r"([0-9.]+)\s*\*\s*cos", VECTORS.meta["map"]["img,class_text"]).group(1))
THRESHOLDS = sorted({m.group(1) for name in VECTORS.arrays if (m := re.match(r"th([0-9.e-]+)_", name))}, key=float)
NEUTRAL = 0  # first category of the file's map


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE["rtol"], atol=TOLERANCE["atol"], equal_nan=True)


def table(*, left_out):
    """(group, harmful category, [rate, low, high]), with some classes left out of the list."""
    kept = np.setdiff1d(np.arange(len(VECTORS["category"])), np.atleast_1d(left_out))
    groups = range(len(VECTORS["rates"]))
    found = harm_rates(
        torch.tensor(VECTORS["img"]),
        class_text=torch.tensor(VECTORS["class_text"][kept]),
        category=VECTORS["category"][kept],
        group=VECTORS["group"],
        groups=tuple(groups),
        scale=SCALE,
    )
    assert found.classes == len(kept)
    harmful = sorted(set(VECTORS["category"].tolist()) - {NEUTRAL})
    shares = [[found.of(group, category=kind) for kind in harmful] for group in groups]
    return np.array([[(one.rate, one.low, one.high) for one in row] for row in shares])


def test_rates_and_intervals():
    VECTORS.need("rates")
    close(table(left_out=[]), VECTORS["rates"])


def test_without_a_class():
    VECTORS.need("dropped_class", "rates_without_class")
    close(table(left_out=VECTORS["dropped_class"]), VECTORS["rates_without_class"])


def test_most_similar_class():
    VECTORS.need("top1")
    rows, classes = len(VECTORS["img"]), len(VECTORS["class_text"])
    found = harm_rates(
        torch.tensor(VECTORS["img"]),
        class_text=torch.tensor(VECTORS["class_text"]),
        category=np.arange(classes),
        group=np.arange(rows),
    )  # each picture a group and each class a category: the rate is 1 where the picture is given the class
    rates = np.array([[found.of(row, category=place).rate for place in range(classes)] for row in range(rows)])
    np.testing.assert_array_equal(rates, np.eye(classes)[VECTORS["top1"]])


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_label_association(threshold):
    found = label_association(
        torch.tensor(VECTORS["img"]),
        class_text=torch.tensor(VECTORS["class_text"]),
        group=VECTORS["group"],
        pair=(0, 1),
        threshold=float(threshold),
        scale=SCALE,
    )
    for name, column in (("freq_group0", "frequency_a"), ("freq_group1", "frequency_b"), ("chi2", "chi2"), ("p", "p")):
        if f"th{threshold}_{name}" not in VECTORS:
            continue
        expected = VECTORS[f"th{threshold}_{name}"]
        defined = np.isfinite(expected)  # no statistic is defined where all pictures or none have the label
        close(np.array([getattr(row, column) for row in found.rows])[defined], expected[defined])


def test_there_are_thresholds():
    assert THRESHOLDS
