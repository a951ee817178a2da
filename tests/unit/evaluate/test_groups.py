"""Shares, worst groups and skew: exact values first, then what must be refused."""

import math

import pytest
import torch

from tether.core.errors import InputError
from tether.evaluate.groups import coded, group_accuracy, max_skew, wilson, worst_group_accuracy


class TestWilson:
    def test_the_ends_solve_the_defining_equation(self):
        share = wilson(7, n=40)
        for p in (share.low, share.high):
            assert abs(share.rate - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 40))
        assert share.low < share.rate == 7 / 40 < share.high

    def test_all_and_none_stay_inside(self):
        assert wilson(0, n=5).low == 0
        assert wilson(5, n=5).high == 1
        assert wilson(0, n=5).high == pytest.approx(1 - wilson(5, n=5).low)

    def test_no_rows_are_nan_and_overlap_everything(self):
        nothing = wilson(0, n=0)
        assert nothing.n == 0
        assert math.isnan(nothing.rate)
        assert nothing.overlaps(wilson(1, n=2))

    def test_overlap(self):
        assert not wilson(30, n=100).overlaps(wilson(5, n=100))
        assert wilson(30, n=100).overlaps(wilson(25, n=100))

    @pytest.mark.parametrize(("count", "n"), [(3, 2), (-1, 2)])
    def test_refuses(self, count, n):
        with pytest.raises(InputError, match="from 0 to n"):
            wilson(count, n=n)


class TestGroups:
    def test_intersections_in_order_with_empty_ones(self):
        found = group_accuracy(
            ["a", "b", "b"],
            labels=["a", "b", "a"],
            groups=(["x", "x", "y"], [1, 1, 2]),
            known=(("x", "y", "z"), (1, 2)),
        )
        assert [(one.group, one.accuracy.n) for one in found] == [
            (("x", 1), 2),
            (("x", 2), 0),
            (("y", 1), 0),
            (("y", 2), 1),
            (("z", 1), 0),
            (("z", 2), 0),
        ]
        assert found[0].accuracy.rate == 1
        assert found[3].accuracy.rate == 0
        assert math.isnan(found[1].accuracy.rate)

    def test_worst_group_is_not_the_average(self):
        labels = torch.tensor([0] * 10 + [1] * 10)
        attribute = torch.tensor(([0] * 8 + [1] * 2) * 2)
        predicted = torch.where(attribute == 1, 1 - labels, labels)
        found = worst_group_accuracy(predicted, labels=labels, attribute=attribute)
        assert (found.worst, found.group, found.average) == (0.0, (0, 1), 0.8)
        assert len(found.groups) == 4

    def test_a_class_never_said_counts(self):
        assert worst_group_accuracy([0, 0], labels=[0, 1], attribute=[0, 0]).worst == 0

    @pytest.mark.parametrize(
        "call",
        [
            lambda: worst_group_accuracy([], labels=[], attribute=[]),
            lambda: worst_group_accuracy([1], labels=[1, 0], attribute=[0, 1]),
            lambda: worst_group_accuracy([1, 0], labels=[1, 0], attribute=[0]),
            lambda: group_accuracy([1], labels=[1], groups=()),
            lambda: group_accuracy([1], labels=[1], groups=([1],), known=()),
            lambda: coded([0.5], name="labels"),
            lambda: coded(["x"], name="labels", known=("y",)),
        ],
    )
    def test_refuses(self, call):
        with pytest.raises(InputError):
            call()


class TestMaxSkew:
    def test_by_hand(self):
        scores = torch.tensor([[5.0, 4.0, 3.0, 2.0], [2.0, 3.0, 4.0, 5.0]])
        found = max_skew(scores, groups=["a", "a", "b", "b"], k=2)
        torch.testing.assert_close(found.each, torch.full((2,), math.log(2)).double())
        assert found.top_shares.tolist() == [[1, 0], [0, 1]]
        assert found.names == ("a", "b")

    def test_whole_pool_and_beyond_is_zero(self):
        scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
        for k in (9, 50):
            found = max_skew(scores, groups=[0, 1, 2] * 3, k=k)
            assert found.mean == 0
            assert found.k == 9

    def test_ties_go_to_the_first(self):
        assert max_skew(torch.zeros(4), groups=["a", "a", "b", "b"], k=2).top_shares.tolist() == [[1, 0]]

    def test_reference(self):
        found = max_skew(torch.tensor([2.0, 1.0]), groups=[0, 1], k=2, reference=torch.tensor([0.25, 0.75]))
        assert float(found.each) == pytest.approx(math.log(2))

    def test_one_group_has_no_skew(self):
        assert max_skew(torch.tensor([2.0, 1.0]), groups=[7, 7], k=1).mean == 0

    @pytest.mark.parametrize(
        ("scores", "groups", "settings"),
        [
            (torch.zeros(0), [], {"k": 1}),
            (torch.tensor([math.nan, 0.0]), [0, 1], {"k": 1}),
            (torch.zeros(2), [0], {"k": 1}),
            (torch.zeros(2), [0, 1], {"k": 1, "reference": torch.tensor([1.0, 0.0])}),
            (torch.zeros(2), [0, 1], {"k": 1, "reference": torch.tensor([1.0])}),
        ],
    )
    def test_refuses(self, scores, groups, settings):
        with pytest.raises(InputError):
            max_skew(scores, groups=groups, **settings)
