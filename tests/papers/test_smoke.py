"""Every paper's check runs from end to end, in seconds and in no particular order, and its figures do not move."""

from __future__ import annotations

import math

import pytest

from tether.papers.cards import CARDS
from tether.papers.reproduction.reproduce import reproduce, smoke_trial
from tether.papers.reproduction.results import moved
from tether.papers.reproduction.stored_result import stored


@pytest.mark.parametrize("slug", list(CARDS))
def test_a_trial_ends_gives_the_same_again_and_what_was_measured(slug):
    (run,) = reproduce(slug, smoke=True, device="cpu")["seeds"]
    assert all(math.isfinite(value) for value in (run["baseline"], run["ours"], *run["notes"].values()))
    assert run["cpu_seconds"] < 60
    again = smoke_trial(slug)
    assert again == {name: run[name] for name in again}
    result = stored(slug)
    if result is not None and result["smoke"] is not None:
        assert moved(result["smoke"], again) == []
