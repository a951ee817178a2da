"""Figures of heads on norms: scikit-learn's, chance beside them, intervals over groups, and what a report says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data.sets.norms import NormItem, NormTable
from tether.evaluate.norms import (
    NormReport,
    category_figures,
    choice_scores,
    evaluate_egonormia,
    evaluate_groups,
    evaluate_pairs,
    evaluate_turns,
    flip_accuracy,
)
from tether.evaluate.norms.report import NO_AUTHORITY

NAMES = ("taboo", "normal", "expected")


def drawn(n: int = 200, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    said = np.where(rng.random(n) < 0.6, truth, rng.integers(3, size=n))
    return [NAMES[t] for t in truth], [NAMES[s] for s in said], [f"g{number // 10}" for number in range(n)]


def test_figures_are_those_of_scikit_learn():
    from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

    truth, said, groups = drawn()
    found = evaluate_groups(truth, said=said, classes=NAMES, groups=groups)
    assert found.macro_f1.value == pytest.approx(f1_score(truth, said, average="macro"))
    assert found.kappa == pytest.approx(cohen_kappa_score(truth, said))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, said, labels=NAMES))
    common = max(NAMES, key=truth.count)
    assert found.macro_f1.chance == pytest.approx(f1_score(truth, [common] * 200, average="macro", zero_division=0))
    assert found.accuracy.uniform == pytest.approx(1 / 3)
    assert (found.n, found.groups) == (200, 20)


def test_intervals_over_groups_are_wider_where_a_group_stands_or_falls_together():
    truth = ["normal"] * 200
    said = ["normal" if (number // 10) % 2 else "taboo" for number in range(200)]
    groups = [str(number // 10) for number in range(200)]
    whole, single = (evaluate_groups(truth, said=said, classes=NAMES, groups=one).accuracy for one in (groups, None))
    assert whole.value == single.value == 0.5
    assert whole.high - whole.low > 2 * (single.high - single.low)


def test_flipped_pairs_against_a_plain_count():
    truth, said, groups = drawn(60, seed=3)
    pairs = [(i, j) for i in range(60) for j in range(i) if groups[i] == groups[j] and truth[i] != truth[j]]
    good = [truth[i] == said[i] and truth[j] == said[j] for i, j in pairs]
    assert flip_accuracy(truth, said=said, groups=groups) == (pytest.approx(np.mean(good)), len(pairs))
    share, count = flip_accuracy(["taboo"], said=["taboo"], groups=["g"])
    assert np.isnan(share)
    assert count == 0


def test_what_cannot_be_measured():
    with pytest.raises(InputError, match="no rows"):
        evaluate_groups([], said=[], classes=NAMES)
    with pytest.raises(InputError, match="said: expected one of taboo, normal, expected, got 'odd'"):
        evaluate_groups(["taboo"], said=["odd"], classes=NAMES)
    with pytest.raises(InputError, match="groups: expected 1 values, got 2"):
        evaluate_groups(["taboo"], said=["taboo"], classes=NAMES, groups=["a", "b"])
    with pytest.raises(InputError, match="no rows"):
        evaluate_pairs(np.array([], dtype=int), np.array([], dtype=int))
    with pytest.raises(InputError, match="best and sensible"):
        evaluate_egonormia({"1": {"m": {"best": {"results": [1]}}}})
    with pytest.raises(InputError, match=r"\(n, 2\)"):
        choice_scores(np.zeros((1, 3), int), correct=np.zeros((1, 3), int), sensible=[[]], sensible_correct=[[]])


def test_one_label_alone_has_kappa_0_and_pairs_one_side():
    found = evaluate_groups(["taboo"] * 4, said=["taboo"] * 4, classes=NAMES)
    assert (found.accuracy.value, found.kappa, found.macro_f1.value) == (1.0, 0.0, 1.0)
    np.testing.assert_allclose(evaluate_pairs(np.zeros(3, int), np.zeros(3, int)), [1, 0, 0, 0])


def test_a_report_says_who_judged_and_is_no_authority():
    truth, said, groups = drawn()
    arms = {"behaviour": evaluate_groups(truth, said=said, classes=NAMES, groups=groups, facets={"at": groups})}
    report = NormReport(
        task="normbank", file=("my|file.csv", "ab" * 32), judged="three <b>people</b>", encoder=("tfidf", "cd" * 16),
        settings={"head": "svm"}, learnt=(10, 2), arms=arms, flips={"behaviour": (float("nan"), 0)}, remarks=["look"],
    )  # fmt: skip
    text = report.markdown()
    assert NO_AUTHORITY in text
    assert r"three \<b\>people" in text
    assert r"my\|file.csv" in text
    assert text.count("chance") >= 3
    told = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert told["no_authority"] == NO_AUTHORITY
    assert told["flips"]["behaviour"] == [None, 0]
    assert told["arms"]["behaviour"]["accuracy"]["chance"] == arms["behaviour"].accuracy.chance


def test_a_report_says_where_chance_is_not_exceeded_and_what_a_die_has_of_flipped_pairs():
    truth, said, groups = drawn()
    rng = np.random.default_rng(4)
    dice = [NAMES[one] for one in rng.integers(3, size=60_000)]
    true = [NAMES[number % 3] for number in range(60_000)]
    same = [str(number // 3) for number in range(60_000)]
    arms = {
        name: evaluate_groups(truth, said=labels, classes=NAMES, groups=groups)
        for name, labels in (("learnt", said), ("always | one", ["taboo"] * 200))
    }
    flips = dict.fromkeys(arms, (0.0, 9))
    report = NormReport("normbank", ("f", "ab"), "people", ("tfidf", "cd"), {}, (10, 2), arms=arms, flips=flips)
    assert report.flip_chance["learnt"] == pytest.approx(flip_accuracy(true, said=dice, groups=same)[0], abs=0.01)
    (line,) = report.not_above_chance()
    assert line.startswith("always | one: accuracy does not exceed chance: the interval begins at 0.")
    assert report.lines()[-1] == line
    assert "flipped pairs both right 0.000 of 9, chance of a die 0.111" in report.lines()[2]
    assert r"- always \| one: accuracy does not exceed chance" in report.markdown()
    assert "| learnt | 0.000 | 0.111 | 9 |" in report.markdown()
    assert report.as_json()["not_above_chance"] == [line]


def test_pairs_of_three_classes_of_which_two_occur():
    truth, said = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    np.testing.assert_allclose(evaluate_pairs(truth, said)[3], 2 / 3)
    np.testing.assert_allclose(evaluate_pairs(truth, said, binary=False)[3], (2 / 3 + 4 / 5) / 2)


def test_turns_by_number_and_by_name():
    by_number = evaluate_turns(np.array([0, 1, 2]), np.array([0, 1, 1]), ["a", "a", "b"])
    by_name = evaluate_turns(["not relevant", "adhered", "violated"], ["not relevant", "adhered", "adhered"])
    assert by_number.macro_f1.value == by_name.macro_f1.value
    assert (by_number.groups, by_name.groups) == (2, 3)


def test_figures_by_category_of_constraint():
    table = NormTable(
        "mine", {"x": ("a", "b")}, ("u", "v"), ("u", "v"), ("g", "h"), (2, 3), "me",
        facets={"constraints": ("person role", "environment + person role")},
    )  # fmt: skip
    found = category_figures(table, ("u", "u"))
    assert [(name, one.n, one.accuracy.value) for name, one in found.items()] == [
        ("environment", 1, 0.0),
        ("person role", 2, 0.5),
    ]


def test_answers_by_kind_and_activity_with_chance():
    items = [
        NormItem(str(n), ("a", "b"), ("c", "d"), 0, (0,), (("Safety",), ("Privacy",)), "a scene") for n in range(2)
    ]
    right, wrong = (
        {"best": {"results": said, "correct": [0, 0]}, "sensible": {"results": [], "correct": [0]}}
        for said in ([0, 0], [0, 1])
    )
    answers = {"0": {"m": right}, "1": {"m": wrong}}
    found = evaluate_egonormia(answers, items=items, activities={"0": "Home"})["m"]
    assert (found.kinds, found.activities) == ({"Safety": (0.5, 2)}, {"Home": (1.0, 1), "unknown": (0.0, 1)})
    assert found.chance[:3] == (0.5, 0.5, 0.25)
    assert found.fraction("sensible") == 0  # an empty list is no answer in a file of the release
    assert np.isnan(evaluate_egonormia(answers)["m"].chance[0])
    with pytest.raises(InputError, match="at least one item"):
        evaluate_egonormia({})
    with pytest.raises(InputError, match="'1' is none of the 1 items"):
        evaluate_egonormia(answers, items=items[:1])


def test_an_answer_that_could_not_be_read_is_wrong() -> None:
    answers = {"1": {"m": {"best": {"results": [None, 2], "correct": [1, 2]}, "sensible": {}}}}
    assert evaluate_egonormia(answers)["m"].percent == (0.0, 100.0, 0.0, 0.0)
