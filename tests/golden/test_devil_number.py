"""Masking, ratios and the two selections of the number filter: every caption, score and setting of the vector."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from loading import load

from tether.data.curate import NumberMask, mask_numbers, number_effect, number_ratio
from tether.data.curate.engine.step import PAIR_SCHEMA
from tether.data.curate.steps.numbers import NUMBER
from tether.tasks.curate.score_filter import ScoreFilter

V = load("devil-number")
CAPTIONS: list[str] = V.meta["captions"]
PATTERN: str = V.meta.get("number_regex", NUMBER)
FRACTION = float(V.meta.get("fraction", 0.4))
# Selections and texts are exact; a ratio is one division.
TOLERANCE = float((re.search(r"[\d.]+e-\d+", str(V.meta.get("tolerance", "")).lower()) or ["1e-15"])[0])
MODES = [mode for mode in ("number", "token") if f"masked_{mode}" in V.meta]


@pytest.mark.parametrize("mode", MODES)
def test_masked_captions(mode):
    expected = V.meta[f"masked_{mode}"]
    assert [mask_numbers(text, mode=mode, pattern=PATTERN) for text in CAPTIONS] == expected
    rows = pa.record_batch([[f"{row}" for row in range(len(CAPTIONS))], CAPTIONS], schema=PAIR_SCHEMA)
    assert NumberMask(mode=mode, pattern=PATTERN).map(rows).to_pylist() == [[text] for text in expected]


def test_number_ratio():
    V.need("number_ratio")
    np.testing.assert_allclose([number_ratio(text) for text in CAPTIONS], V["number_ratio"], rtol=0, atol=TOLERANCE)


def select(scores: np.ndarray, *, mode: str | None) -> np.ndarray:
    """The filter with given cosines in place of a model's."""
    transform = None if mode is None else [lambda text: mask_numbers(text, mode=mode, pattern=PATTERN)]
    kept = ScoreFilter(lambda images, texts: scores, fraction=FRACTION, text_transform=transform)
    return kept.select(kept.score([b""] * len(CAPTIONS), CAPTIONS))


def test_plain_selection():
    V.need("score_raw", "kept_raw")
    np.testing.assert_array_equal(select(V["score_raw"], mode=None), V["kept_raw"])


def test_masked_selection():
    V.need("score_masked", "kept_masked")
    np.testing.assert_array_equal(select(V["score_masked"], mode="number"), V["kept_masked"])


def test_effect():
    V.need("score_raw", "score_masked", "kept_raw", "kept_masked")
    empty = [not mask_numbers(text, pattern=PATTERN) for text in CAPTIONS]
    masked = np.where(empty, -1.0, V["score_masked"])
    found = number_effect(CAPTIONS, raw=V["score_raw"], masked=masked, fraction=FRACTION)
    np.testing.assert_allclose(found.delta, V["score_raw"] - masked, rtol=0, atol=TOLERANCE)
    lost = set(V["kept_raw"].tolist()) - set(V["kept_masked"].tolist())
    assert found.changed == len(lost) / max(len(V["kept_raw"]), 1)
