"""Balancing: probabilities, draws, thresholds, states and what is refused."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data.curate import Balancer, entry_counts, tail_share, threshold_for_share

INDPTR = np.array([0, 2, 2, 3, 5])
IDS = np.array([0, 1, 1, 1, 2])
COUNTS = np.array([10, 40, 2])


def test_probabilities_by_hand():
    balancer = Balancer(t=10).fit(COUNTS)
    assert balancer.entry_prob_.tolist() == [1.0, 0.25, 1.0]
    assert balancer.pair_prob(INDPTR, IDS).tolist() == [1.0, 0.0, 0.25, 1.0]
    thin = Balancer(t=5).fit(COUNTS).pair_prob(INDPTR, IDS)
    assert thin == pytest.approx([1 - 0.5 * 0.875, 0, 0.125, 1])


def test_counts_add_over_shards():
    whole = entry_counts(INDPTR, IDS, n=3)
    assert whole.dtype == np.uint64
    assert whole.tolist() == [1, 3, 1]
    parts = entry_counts(INDPTR[:3], IDS[:2], n=3)
    parts += entry_counts(INDPTR[2:] - 2, IDS[2:], n=3)
    assert parts.tolist() == whole.tolist()


@pytest.mark.parametrize("sampler", [random.Random, np.random.RandomState, np.random.default_rng, int])
def test_number_kept_is_within_four_sigma(sampler):
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 4, 20_000)
    indptr = np.concatenate(([0], np.cumsum(sizes)))
    ids = rng.integers(0, 50, int(sizes.sum()))
    balancer = Balancer(t=100).fit(entry_counts(indptr, ids, n=50))
    chance = balancer.pair_prob(indptr, ids)
    kept = balancer.sample(indptr, ids, random_state=sampler(3))
    assert (np.diff(kept) > 0).all()
    assert (chance[kept] > 0).all()
    assert abs(len(kept) - chance.sum()) < 4 * math.sqrt((chance * (1 - chance)).sum())


def test_infinite_threshold_keeps_all_that_match():
    balancer = Balancer(t=math.inf).fit(COUNTS)
    assert balancer.pair_prob(INDPTR, IDS).tolist() == [1, 0, 1, 1]
    assert balancer.sample(INDPTR, IDS, random_state=0).tolist() == [0, 2, 3]
    assert balancer.sample(INDPTR, IDS, random_state=random.Random(0)).tolist() == [0, 2, 3]


def test_tail_share_and_its_threshold():
    assert tail_share(COUNTS, t=10) == pytest.approx(2 / 52)
    assert tail_share(COUNTS, t=11) == pytest.approx(12 / 52)
    assert threshold_for_share(COUNTS, share=12 / 52) == 10
    assert Balancer(tail_share=12 / 52).fit(COUNTS).t_ == 10
    assert Balancer(tail_share=0.0).fit(np.array([0, 3])).t_ == 1  # a count of zero is no threshold


def test_state_continues():
    balancer = Balancer(t=10).fit(COUNTS)
    state = json.loads(json.dumps(balancer.state_dict()))
    other = Balancer(t=10)
    other.load_state_dict(state)
    assert other.pair_prob(INDPTR, IDS).tolist() == balancer.pair_prob(INDPTR, IDS).tolist()
    assert other.sample(INDPTR, IDS, random_state=1).tolist() == balancer.sample(INDPTR, IDS, random_state=1).tolist()
    with pytest.raises(InputError, match=r"does not fit a balancer of .*11"):
        Balancer(t=11).load_state_dict(state)
    fresh = Balancer(t=10)
    fresh.load_state_dict(Balancer(t=10).state_dict())
    with pytest.raises(InputError, match="no counts yet"):
        fresh.pair_prob(INDPTR, IDS)


@pytest.mark.parametrize("settings", [{}, {"t": 1, "tail_share": 0.5}])
def test_refused_settings(settings):
    with pytest.raises(InputError, match="expected"):
        Balancer(**settings)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.array([1.5]), "whole numbers, got float64"),
        (np.array([3, -1]), r"counts\[1\]: expected at least 0"),
        (np.zeros((2, 2), int), "one count for each entry"),
        (np.array([], int), "one count for each entry"),
    ],
)
def test_refused_counts(counts, message):
    with pytest.raises(InputError, match=message):
        Balancer(t=1).fit(counts)


def test_refused_rows_and_shares():
    balancer = Balancer(t=1).fit(COUNTS)
    with pytest.raises(InputError, match="ids: expected 0 to 2, got 0 to 3"):
        balancer.pair_prob(np.array([0, 2]), np.array([0, 3]))
    with pytest.raises(InputError, match="row pointers from 0 up to 2"):
        balancer.sample(np.array([0, 1]), np.array([0, 1]), random_state=0)
    with pytest.raises(InputError, match="no entry has a match"):
        tail_share(np.zeros(3, int), t=1)
    with pytest.raises(InputError, match="no entry has a match"):
        Balancer(tail_share=0.5).fit(np.zeros(3, int))
