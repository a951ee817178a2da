"""Every paper's check runs from end to end, in seconds and in no particular order, and its figures do not move."""

from __future__ import annotations

import math

import pytest

from tether.papers.cards import CARDS
from tether.papers.reproduction.reproduce import reproduce, smoke_trial
from tether.papers.reproduction.results import moved
from tether.papers.reproduction.stored_result import stored

IMAGES_APART = {("nfnet-agc", "accuracy_batch_norm"): 2 / 342}
"""Shares that differ between AMD and Intel, and by how much: after one epoch two digits of 342 lie on a border."""


@pytest.mark.parametrize("slug", list(CARDS))
def test_a_trial_ends_gives_the_same_again_and_what_was_measured(slug):
    (run,) = reproduce(slug, smoke=True, device="cpu")["seeds"]
    assert all(math.isfinite(value) for value in (run["baseline"], run["ours"], *run["notes"].values()))
    assert run["cpu_seconds"] < 60
    again = smoke_trial(slug)
    assert again == {name: run[name] for name in again}
    result = stored(slug)
    if result is not None and result["smoke"] is not None:
        for name in [name for paper, name in IMAGES_APART if paper == slug]:
            before = result["smoke"]["notes"][name]
            assert abs(again["notes"].pop(name) - before) <= IMAGES_APART[slug, name] + 1e-6
            again["notes"][name] = before
        assert moved(result["smoke"], again) == []
