"""The official extraction code of arXiv 2311.04711 on more files, written and random ones, that tell its ways apart."""

from __future__ import annotations

import pytest
from loading import load

from tether.data.figures import extract_jats_figures, extract_tex_figures

VECTORS = load("scientific-papers-more")
TEX = VECTORS.meta.get("tex", {})
JATS = VECTORS.meta.get("xml", {})


@pytest.mark.parametrize("name", sorted(TEX))
def test_figures_of_latex(name):
    case = TEX[name]
    found = extract_tex_figures(case["source"], image_names=case["graphics"])
    assert {picture: text.split() for picture, text in found.items()} == {
        picture: text.split() for picture, text in case["captions"].items()
    }


def test_figures_of_articles():
    for name, case in JATS.items():
        assert extract_jats_figures(case["source"], image_names=case["images"]) == case["paper_rule"], name
