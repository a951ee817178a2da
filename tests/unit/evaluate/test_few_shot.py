"""Few-shot tables: paired draws, what each method is asked, intervals, and what is refused."""

import json
from collections import Counter

import numpy as np
import pytest

from memory_rows import squares
from tether.core.errors import InputError
from tether.data.labelled import read_labels
from tether.evaluate.few_shot import FewShotFigure, FewShotTable, OverDraws, draw_of, few_shot, harmonic_mean


@pytest.fixture(scope="module")
def train():
    return read_labels(squares(90))


@pytest.fixture(scope="module")
def test():
    return read_labels(squares(31, seed=1))


def right(labels):
    return lambda draw: lambda rows, classes: np.array(labels)[rows]


def test_every_method_sees_the_same_draws_and_the_order_turns(train, test):
    seen, order = {}, []

    def looking(name):
        def method(draw):
            seen.setdefault(name, []).append(draw)
            order.append(name)
            return lambda rows, classes: np.full(len(rows), classes[0])

        return method

    names = ["a", "b", "c"]
    table = few_shot({name: looking(name) for name in names}, train=train, test=test, shots=[1, 4, 6], draws=2)
    assert seen["a"] == seen["b"] == seen["c"]
    assert [(draw.seed, draw.shots) for draw in seen["a"]] == [(seed, shots) for seed in (0, 1) for shots in (1, 4, 6)]
    assert {order[start] for start in range(0, len(order), 3)} == set(names)
    assert [row.method for row in table.rows()] == sorted(names * 3)
    for draw in seen["a"]:
        assert Counter(train.labels[row] for row in draw.train) == dict.fromkeys(range(3), draw.shots)
        assert Counter(train.labels[row] for row in draw.validation) == dict.fromkeys(range(3), min(draw.shots, 4))
        assert not set(draw.train) & set(draw.validation)
    assert seen["a"][0].train != seen["a"][3].train
    assert set(seen["a"][1].train) < set(seen["a"][2].train)


def test_a_class_is_drawn_alike_whatever_others_are_learnt(train):
    everything, some = (draw_of(train, classes=classes, shots=3, seed=7) for classes in ((0, 1, 2), (0, 2)))
    assert {row for row in everything.train if train.labels[row] != 1} == set(some.train)
    assert {row for row in everything.validation if train.labels[row] != 1} == set(some.validation)


def test_learnt_classes_are_told_apart_among_themselves_and_so_are_the_others():
    rows = read_labels(squares(90))
    names = ["a", "b", "c", "d"]
    labels = tuple(number % 4 for number in range(len(rows.labels)))
    rows = type(rows)(rows.source, tuple(names), rows.places, labels, rows.digests)
    asked = []

    def half_right(draw):
        def answer(test_rows, classes):
            asked.append((tuple(test_rows), classes))
            return np.full(len(test_rows), classes[0])

        return answer

    def closed(draw):
        return lambda test_rows, classes: None if classes != draw.classes else np.array(labels)[test_rows]

    methods = {"half": half_right, "closed": closed, "none": lambda draw: None}
    table = few_shot(methods, train=rows, test=rows, unseen=["b", "d"], shots=[2], draws=1)
    assert {classes for _, classes in asked} == {(0, 2), (1, 3)}
    for test_rows, classes in asked:
        assert {labels[row] for row in test_rows} == set(classes)
    half, closed_row, none = table.rows()
    assert half.accuracy.value == half.unseen.value == half.harmonic.value == pytest.approx(0.5, abs=0.02)
    assert closed_row.accuracy.value == 1.0
    assert closed_row.unseen is closed_row.harmonic is none.accuracy is None
    assert half.accuracy.low is None
    assert "closed" in table.lines()[2]
    assert table.lines()[2].split()[3:5] == ["-", "-"]
    json.dumps(table.as_dict(), allow_nan=False)


def figure(method, seed, accuracy, unseen=None):
    return FewShotFigure(method, 4, seed, accuracy, unseen, 1.0 + seed, 0.0)


def test_intervals_are_students_and_differences_are_paired():
    table = FewShotTable(
        (
            *(figure("a", seed, value, 0.5) for seed, value in enumerate((0.5, 0.7, 0.6))),
            *(figure("b", seed, value, None) for seed, value in enumerate((0.4, 0.6, 0.5))),
            figure("b", 3, 0.9),
        )
    )
    found = table.rows()[0]
    assert found.accuracy.value == pytest.approx(0.6)
    assert found.accuracy.high - 0.6 == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert found.harmonic.draws == 3
    assert found.seconds == 2.0
    difference = table.difference("a", "b", shots=4)
    assert (difference.value, difference.low, difference.draws) == (pytest.approx(0.1), pytest.approx(0.1), 3)
    with pytest.raises(InputError, match="no draw of 4 shots has unseen of both"):
        table.difference("a", "b", shots=4, of="unseen")
    assert OverDraws.of([0.3]).high is None


def test_harmonic_mean():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_bad_input(train, test):
    methods = {"right": right(test.labels)}
    assert few_shot(methods, train=train, test=test, shots=[1], draws=1).rows()[0].accuracy.value == 1.0
    with pytest.raises(InputError, match="at least one"):
        few_shot({}, train=train, test=test)
    with pytest.raises(InputError, match="'pink' is none of the 3 classes"):
        few_shot(methods, train=train, test=test, unseen=["pink"])
    with pytest.raises(InputError, match="at least two classes on either side, got 2 and 1"):
        few_shot(methods, train=train, test=test, unseen=["red"])
    with pytest.raises(InputError, match="at least two classes on either side, got 1 and 2"):
        few_shot(methods, train=train, test=test, unseen=["red", "blue"])
    with pytest.raises(InputError, match=r"class 'blue' has 30 different images; expected at least 36"):
        few_shot(methods, train=train, test=test, shots=[32])
    with pytest.raises(InputError, match="expected the classes"):
        few_shot(methods, train=train, test=read_labels(squares(31), classes=["red", "green", "blue"]))
    with pytest.raises(InputError, match="wrong: expected one of the classes"):
        few_shot({"wrong": lambda draw: lambda rows, classes: np.full(len(rows), 9)}, train=train, test=test, shots=[1])
    only = read_labels(squares(2), classes=test.classes, need="some")
    with pytest.raises(InputError, match="test: class 'blue' has no image"):
        few_shot(methods, train=train, test=only)
