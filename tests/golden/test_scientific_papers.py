"""Official extraction code of arXiv 2311.04711 against ``methods.scientific_papers``: every file, any names."""

from __future__ import annotations

import numpy as np
import pytest
from loading import load

from tether.data.paths import points_outside
from tether.methods.scientific_papers import FigureArchive, extract_jats_figures, extract_tex_figures

VECTORS = load("scientific-papers")
TEX = VECTORS.meta.get("tex", {})
JATS = VECTORS.meta.get("xml", {})
MORE = load("scientific-papers-more")
"""Further files, written and random ones, that tell the ways of the official code apart."""
MORE_TEX, MORE_JATS = MORE.meta.get("tex", {}), MORE.meta.get("xml", {})


def squeezed(captions: dict[str, str]) -> dict[str, str]:
    """Captions without blanks, which is how the vector wants them compared."""
    return {name: "".join(text.split()) for name, text in captions.items()}


@pytest.mark.parametrize("name", sorted(TEX))
def test_figures_of_latex(name):
    case = TEX[name]
    wanted = squeezed(case["captions"])
    assert squeezed(extract_tex_figures(case["source"], image_names=case["graphics"])) == wanted
    try:
        data = case["source"].encode("iso-8859-1")
    except UnicodeEncodeError:
        return  # no file of the official code's encoding holds it
    assert squeezed(extract_tex_figures(data, image_names=case["graphics"])) == wanted


@pytest.mark.parametrize("name", sorted(JATS))
def test_figures_of_articles(name):
    case = JATS[name]
    found = extract_jats_figures(case["source"], image_names=case["images"])
    assert squeezed(found) == squeezed(case["paper_rule"])
    assert extract_jats_figures(case["source"].encode(), image_names=case["images"]) == found
    assert found.items() <= extract_jats_figures(case["source"]).items()


def test_counts():
    for name, cases in (("n_tex", TEX), ("n_xml", JATS)):
        if name in VECTORS:
            assert int(np.asarray(VECTORS[name])) == len(cases)


@pytest.mark.parametrize("name", sorted(TEX))
def test_archives_say_the_same(name, tmp_path):
    """The same file in a paper's folder, which leaves out captions that came out empty."""
    case = TEX[name]
    stems = [graphic.rpartition(".")[0] for graphic in case["graphics"]]
    if len(set(stems)) < len(stems) or any(map(points_outside, case["graphics"])):
        return  # of two with one stem the first counts, and a folder has an order of its own
    for file in ("main.tex", *case["graphics"]):
        path = tmp_path / "paper" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    (tmp_path / "paper" / "main.tex").write_text(case["source"], encoding="utf-8")
    found = FigureArchive(tmp_path / "paper").figures()
    wanted = {picture: text for picture, text in squeezed(case["captions"]).items() if text}
    assert squeezed({figure.name: figure.caption for figure in found}) == wanted


@pytest.mark.parametrize("name", sorted(MORE_TEX))
def test_figures_of_more_latex(name):
    case = MORE_TEX[name]
    found = extract_tex_figures(case["source"], image_names=case["graphics"])
    assert {picture: text.split() for picture, text in found.items()} == {
        picture: text.split() for picture, text in case["captions"].items()
    }


def test_figures_of_more_articles():
    for name, case in MORE_JATS.items():
        assert extract_jats_figures(case["source"], image_names=case["images"]) == case["paper_rule"], name
