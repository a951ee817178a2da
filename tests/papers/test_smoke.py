"""Every paper's check runs from end to end, in seconds and in no particular order, and its figures do not move."""

from __future__ import annotations

import functools
import math

import pytest

from tether.papers.cards import CARDS
from tether.papers.reproduction.reproduce import reproduce, smoke_trial, stored
from tether.papers.reproduction.results import moved


@functools.cache
def trial(slug):
    return smoke_trial(slug)


@pytest.mark.parametrize("slug", list(CARDS))
def test_reproduce_smoke(slug):
    (run,) = reproduce(slug, seeds=[1], smoke=True)["seeds"]
    assert all(math.isfinite(value) for value in (run["baseline"], run["ours"], *run["notes"].values()))
    assert run["cpu_seconds"] < 60


@pytest.mark.parametrize("slug", list(CARDS))
def test_figures_have_not_moved_since_they_were_measured(slug):
    result = stored(slug)
    if result is None or result["smoke"] is None:
        pytest.skip(f"results/{slug}.json holds no smoke trial: measure it again")
    assert moved(result["smoke"], trial(slug)) == []


@pytest.mark.parametrize("slug", list(CARDS))
def test_one_seed_gives_one_result(slug):
    assert smoke_trial(slug) == trial(slug)
