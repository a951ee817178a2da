"""Verdicts against figures worked out by hand and tables of Student's t."""

from __future__ import annotations

import math

import pytest

from tether.core.errors import InputError
from tether_lab.lab.card import Condition
from tether_lab.lab.verdict import bounds, check_condition, improvements, judge, summarise


def test_bound_is_the_tabulated_t():
    # n = 3, mean 2, standard deviation 1; t(0.95; 2) = 2.919986 from any printed table
    lower, upper = bounds([1.0, 2.0, 3.0])
    assert lower == pytest.approx(2 - 2.919986 / math.sqrt(3), abs=1e-6)
    assert upper == pytest.approx(2 + 2.919986 / math.sqrt(3), abs=1e-6)
    # n = 5: t(0.95; 4) = 2.131847
    lower, _ = bounds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert lower == pytest.approx(3 - 2.131847 * math.sqrt(2.5 / 5), abs=1e-6)


@pytest.mark.parametrize(
    ("baseline", "ours", "better", "margin", "expected"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "higher", 0.5, "reproduced"),
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "higher", 1.5, "direction only"),
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "lower", 0.5, "contrary"),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], "lower", 0.5, "reproduced"),
        (
            [1.0, 1.0, 1.0],
            [4.0, 1.0, 0.9],
            "higher",
            0.5,
            "not shown",
        ),  # mean 0.97 is past the margin, the bound is not
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "higher", 0.5, "not shown"),
    ],
)
def test_each_verdict(baseline, ours, better, margin, expected):
    assert summarise(baseline, ours, better=better, margin=margin).verdict == expected


@pytest.mark.parametrize(
    ("ours", "margin", "expected"),
    [
        ([1.0, 2.0, 3.0], 0.5, "reproduced"),
        ([0.6, 1.6, 2.6], 0.5, "reproduced"),
        ([0.4, 1.4, 2.4], 0.5, "contrary"),
        ([0.2, 2.4, 2.9], 0.5, "not shown"),
        ([2.0, 3.0, 4.0], 0.5, "reproduced"),
    ],
)
def test_no_worse_is_held_against_its_allowance(ours, margin, expected):
    assert summarise([1.0, 2.0, 3.0], ours, better="higher", margin=margin, kind="no_worse").verdict == expected


def test_a_property_holds_on_every_seed_or_not_at_all():
    def said(ours, **more):
        return summarise([1e-6] * 3, ours, better="lower", margin=0.0, kind="property", **more).verdict

    assert said([1e-7, 1e-6, 0.0]) == "property holds"
    assert said([1e-7, 2e-6, 0.0]) == "contrary"
    assert said([1e-7, 1e-6, 0.0], conditions=[True, False]) == "in part"


def test_a_failed_condition_leaves_weaker_verdicts_alone():
    weak = {"better": "higher", "margin": 5.0, "conditions": [False]}
    assert summarise([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], **weak).verdict == "direction only"


@pytest.mark.parametrize(
    ("least", "ours", "holds"),
    [
        (-0.5, [0.5, 0.7, 0.9], False),
        (-0.5, [0.7, 0.7, 0.7], True),
        (0.0, [1.0, 1.0, 1.0], True),
        (0.0, [1.0, 1.1, 0.9], False),
        (0.5, [1.6, 1.7, 1.5], True),
        (0.7, [1.6, 1.7, 1.5], False),
        (0.5, [0.5, 1.7, 3.5], False),
    ],
)
def test_conditions(least, ours, holds):
    asked = Condition(says="kept", ours="recall", than=1.0, better="higher", least=least)
    assert check_condition(asked, [{"recall": one} for one in ours]).holds is holds
    lower = Condition(says="kept", ours="loss", than="before", better="lower", least=least)
    assert check_condition(lower, [{"loss": -one, "before": -1.0} for one in ours]).holds is holds


def test_seeds_are_paired():
    # seeds differ far more from each other than the method from its baseline: only pairing shows the effect
    baseline, ours = [1.0, 10.0, 100.0], [1.5, 10.6, 100.4]
    assert summarise(baseline, ours, better="higher", margin=0.4).verdict == "reproduced"


def test_equal_differences_have_an_exact_bound():
    summary = summarise([1.0, 2.0, 3.0], [1.5, 2.5, 3.5], better="higher", margin=0.5)
    assert (summary.mean, summary.lower, summary.upper) == (0.5, 0.5, 0.5)
    assert summary.verdict == "reproduced"


def test_edges_belong_where_they_are_said_to():
    assert judge(0.5, lower=0.1, upper=0.9, margin=0.5) == "reproduced"
    assert judge(0.5, lower=0.0, upper=0.9, margin=0.5) == "not shown"
    assert judge(-0.5, lower=-0.9, upper=0.0, margin=0.5) == "not shown"


@pytest.mark.parametrize(
    ("baseline", "ours", "margin", "match"),
    [
        ([1.0, 2.0], [2.0, 3.0], 0.1, "at least 3 paired seeds, got 2"),
        ([1.0, 2.0, 3.0], [2.0, 3.0], 0.1, "equal lengths, got 3 baselines and 2"),
        ([1.0, 2.0, math.nan], [2.0, 3.0, 4.0], 0.1, "pair 2: expected finite"),
        ([1.0, 2.0, 3.0], [2.0, math.inf, 4.0], 0.1, "pair 1: expected finite"),
    ],
)
def test_bad_input_is_refused(baseline, ours, margin, match):
    with pytest.raises(InputError, match=match):
        summarise(baseline, ours, better="higher", margin=margin)


def test_improvement_is_positive_when_better():
    assert improvements([3.0], [1.0], better="lower") == [2.0]
    assert improvements([3.0], [1.0], better="higher") == [-2.0]
