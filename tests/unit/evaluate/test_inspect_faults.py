"""The health report finds each planted fault, and raises none of these alarms on a clean model."""

from __future__ import annotations

import pytest
import torch

from tether.evaluate.inspect.health_report import Report
from tether.evaluate.inspect.runner import inspect_model
from tether.models import create
from tether.models.towers.clip import Clip

import planted  # isort: skip - a neighbour

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("inspect")


def look(model: Clip, place, *, pairs=None, probes=None) -> Report:
    return inspect_model(model, pairs or planted.held_out(), out=place, probes=probes)


def test_a_clean_model_raises_no_alarm(place):
    report = look(planted.model(), place)
    assert report.alarms == ()
    told = {section.name for section in report.sections if section.finding is not None}
    assert told == {section.name for section in report.sections}, [s.problem for s in report.sections]
    apart = report.section("retrieval").finding.figure("share of wrong answers that a pair beats (chance 50 %)")
    assert apart.low > 0.9
    assert {section.name for section in report.sections if section.level == "unknown"} == set()


def test_a_colour_word_bias_is_found(place):
    report = look(planted.model("colour"), place, probes=["towers", "lettering", "shortcuts"])
    assert report.alarms == ("shortcuts",)
    finding = report.section("shortcuts").finding
    assert "colour word decides" in finding.sentence
    assert finding.figure("colour word: pulled to the class that the attribute favours").low > 0.2
    # The planted partners are named: each shape went with the colour at its place.
    assert "red → circle" in finding.sentence


def test_a_rendered_text_shortcut_is_found(place):
    report = look(planted.model("lettering"), place, probes=["towers", "lettering", "shortcuts"])
    assert report.alarms == ("lettering",)
    finding = report.section("lettering").finding
    assert "reads" in finding.sentence
    assert any(item.uri for drawing in finding.drawings for item in getattr(drawing, "items", ()))


@pytest.mark.parametrize("trained", ["swapped", "none"])
def test_exchanged_pairs_are_found(place, trained):
    """By a model that learnt from pairs of which one in twenty is wrong, and by a clean one."""
    pairs = planted.held_out("swapped", 800)
    report = look(planted.model(trained), place, pairs=pairs, probes=["towers", "retrieval", "mismatched"])
    assert report.alarms == ("mismatched",)
    finding = report.section("mismatched").finding
    share = finding.figure("estimated share of exchanged captions")
    assert share.low < 0.05 < share.high
    suspects = [item.row for item in finding.drawings[0].items]
    wrong = [pairs.captions[row] != planted.caption_of(pairs, row) for row in suspects]
    assert sum(wrong) >= 0.8 * len(wrong)


@pytest.mark.parametrize("side", ["both", "image", "text"])
def test_a_dead_dimension_is_found(place, side):
    model = planted.model()
    with torch.no_grad():
        if side != "text":
            model.visual.projection.weight[7] = 0
        if side != "image":
            model.text.projection.weight[7] = 0
    report = look(model, place, probes=["towers", "dimensions", "shortcuts"])
    assert report.alarms == ("dimensions",)
    sentence = report.section("dimensions").finding.sentence
    assert ("7 for images" in sentence) == (side != "text")
    assert ("7 for texts" in sentence) == (side != "image")


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("how", ["new", "redrawn"])
def test_an_untrained_tower_is_found(place, side, how):
    """A tower put in fresh, and one whose matrices were drawn anew while its norms stayed."""
    model, name = planted.model(), {"image": "visual", "text": "text"}[side]
    if how == "new":
        setattr(model, name, getattr(create("tiny", seed=5, context=16).eval(), name))
    else:
        getattr(model, name).initialise_(torch.Generator().manual_seed(8))
    report = look(model, place, probes=["towers", "retrieval", "mismatched", "lettering", "shortcuts", "dimensions"])
    assert report.alarms == ("towers", "retrieval")
    assert report.section("towers").finding.sentence.startswith(f"The {side} tower was not trained")


def test_towers_that_do_not_fit_each_other(place):
    """Both trained, but the joint space of one is turned: no tower is blamed."""
    model = planted.model()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.text.projection.weight.copy_(model.text.projection.weight[order])
    report = look(model, place, probes=["towers"])
    assert report.section("towers").finding.sentence == "Both towers learnt something, but they do not fit each other."
