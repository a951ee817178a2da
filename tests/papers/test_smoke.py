"""Every paper's check runs from end to end, in seconds and in no particular order."""

from __future__ import annotations

import math

import pytest

from tether.papers.cards import CARDS
from tether.papers.reproduction.reproduce import reproduce


@pytest.mark.parametrize("slug", list(CARDS))
def test_reproduce_smoke(slug):
    result = reproduce(slug, seeds=[0], smoke=True)
    (run,) = result["seeds"]
    assert math.isfinite(run["baseline"])
    assert math.isfinite(run["ours"])
    assert all(math.isfinite(value) for value in run["notes"].values())
    assert run["cpu_seconds"] < 60


@pytest.mark.parametrize("slug", list(CARDS))
def test_one_seed_gives_one_result(slug):
    first, second = (reproduce(slug, seeds=[1], smoke=True)["seeds"][0] for _ in range(2))
    assert (first["baseline"], first["ours"], first["notes"]) == (second["baseline"], second["ours"], second["notes"])
