"""Cells of NormDial and figures of turns against an independent transcription; everything from the file."""

from __future__ import annotations

import numpy as np
import pytest
from loading import load

from tether.data.sets.norms import parse_labelled_dialogue
from tether.evaluate.norms import evaluate_groups

V = load("normdial")
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("number", range(len(V.meta["texts"])))
def test_cells(number):
    found, expected = parse_labelled_dialogue(V.meta["texts"][number]), V.meta["parsed"][number]
    assert found.action == expected["action"]
    assert list(found.actors) == expected["actors"]
    assert [[one.speaker, one.text, one.label, one.reason] for one in found.turns] == expected["turns"]
    assert list(found.other_lines) == expected["other_lines"]


def test_figures():
    names = V.meta["labels"]
    truth, said = ([names[code] for code in V[name]] for name in ("true", "pred"))
    category = [str(code) for code in V["category"]]
    found = evaluate_groups(truth, said=said, classes=names, facets={"category": category}, resamples=2)
    for figure in ("precision", "recall", "f1", "support"):
        np.testing.assert_allclose([getattr(one, figure) for one in found.classes], V[figure], **CLOSE)
    np.testing.assert_allclose(found.macro_f1.value, V["macro_f1"], **CLOSE)
    np.testing.assert_allclose(found.accuracy.value, V["accuracy"], **CLOSE)
    np.testing.assert_allclose(found.kappa, V["kappa"], **CLOSE)
    by = found.facets["category"]
    got = [by[str(code)][0] for code in range(len(V["accuracy_by_category"])) if str(code) in by]
    np.testing.assert_allclose(got, [v for c, v in enumerate(V["accuracy_by_category"]) if str(c) in by], **CLOSE)
