"""Overlap of rankings: by hand, against the plain definition, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.paraclip.ranking_overlap import average_overlap, jaccard_at, ranking


def test_by_hand():
    assert float(average_overlap([1, 2, 3], [1, 3, 2], k=3)) == pytest.approx((1 + 0.5 + 1) / 3)
    assert float(jaccard_at([1, 2, 3], [1, 4, 5], k=3)) == pytest.approx(1 / 5)
    assert float(average_overlap(range(20), range(20))) == 1.0
    assert float(average_overlap(range(10), range(10, 20))) == 0.0


def test_items_beyond_the_depth_do_not_count():
    one, other = [1, 2, 3, 4], [1, 2, 4, 3]
    assert float(average_overlap(one, other, k=2)) == float(jaccard_at(one, other, k=2)) == 1.0
    assert float(average_overlap(one, other, k=3)) < 1.0


def test_is_the_plain_definition_symmetric_and_earlier_places_count_more():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.stack([torch.randperm(25, generator=generator) for _ in range(40)]) for _ in range(2))
    found, jaccard = average_overlap(one, other), jaccard_at(one, other)
    for row in range(40):
        a, b = one[row].tolist(), other[row].tolist()
        plain = sum(len(set(a[:d]) & set(b[:d])) / d for d in range(1, 11)) / 10
        assert float(found[row]) == pytest.approx(plain, abs=1e-12)
        assert float(jaccard[row]) == pytest.approx(len(set(a[:10]) & set(b[:10])) / len(set(a[:10]) | set(b[:10])))
    torch.testing.assert_close(average_overlap(other, one), found)
    early, late = average_overlap([0, 1, 2], [0, 8, 9], k=3), average_overlap([1, 2, 0], [8, 9, 0], k=3)
    assert float(early) > float(late)


def test_ranking_gives_ties_to_the_first_in_any_blocks():
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert ranking(queries, items, k=3).tolist() == [[0, 2, 1], [1, 0, 2]]
    assert ranking(queries, items, k=1, block=1).tolist() == [[0], [1]]
    assert ranking(queries[:0], items, k=2).shape == (0, 2)


@pytest.mark.parametrize(
    ("one", "other", "k"),
    [
        ([1, 2], [1, 2], 3),
        ([1, 2], [1, 2, 3], 2),
        ([1, 1, 2], [1, 2, 3], 2),
        ([1.0, 2.0], [1.0, 2.0], 2),
        ([[[1]]], [[[1]]], 1),
    ],
)
def test_refused(one, other, k):
    for measure in (average_overlap, jaccard_at):
        with pytest.raises(InputError):
            measure(one, other, k=k)


def test_refused_rows():
    rows = torch.eye(3)
    for queries, items, keywords in (
        (rows, rows, {"k": 4}),
        (rows[:, :2], rows, {"k": 1}),
        (rows * float("nan"), rows, {"k": 1}),
    ):
        with pytest.raises(InputError):
            ranking(queries, items, **keywords)
