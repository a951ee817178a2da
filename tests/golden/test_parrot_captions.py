"""Overlap of captions with the words in their pictures, and the README's selection: every row of the vector."""

from __future__ import annotations

import pytest
from loading import load

from tether.data.curate import select_unparroted
from tether.methods.parrot_captions.ocr_overlap import caption_overlap, overlap_report, words_of

V = load("parrot-captions")
ROWS: list[dict] = V.meta.get("rows", [])
FUZZY = float(V.meta.get("fuzzy_threshold", 0.8))
CLOSE = {"rel": 0, "abs": 1e-15}  # one division of two counts


@pytest.mark.parametrize("row", ROWS, ids=[str(number) for number in range(len(ROWS))])
def test_overlap(row):
    found = caption_overlap(row["caption"], ocr=row["ocr"], fuzzy=FUZZY)
    assert set(found.written) == set(row["ocr_words"])
    assert list(found.words) == row["caption_words"] == words_of(row["caption"])
    assert list(found.exact) == row["exact"]
    assert list(found.fuzzy) == row["fuzzy"]
    assert found.coverage == pytest.approx(row["coverage"], **CLOSE)
    assert found.fuzzy_coverage == pytest.approx(row["fuzzy_coverage"], **CLOSE)
    plain = caption_overlap(row["caption"], ocr=row["ocr"])
    assert list(plain.exact) == list(plain.fuzzy) == row["exact"]


@pytest.mark.skipif("aggregate" not in V.meta, reason="no rates in these vectors")
def test_rates_of_the_set():
    found = overlap_report([row["caption"] for row in ROWS], ocr=[row["ocr"] for row in ROWS], fuzzy=FUZZY).as_dict()
    expected = V.meta["aggregate"]
    assert set(expected) <= set(found)
    assert {name: found[name] for name in expected} == pytest.approx(expected, **CLOSE)


@pytest.mark.skipif("select" not in V.meta, reason="no selection in these vectors")
def test_selection():
    given = V.meta["select"]
    kept = select_unparroted(given["has_text"], clip_score=given["clip_score"], aesthetic=given["aesthetic"])
    assert kept.tolist() == given["kept"]
