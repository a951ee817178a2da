"""What the measured notes of papers must say besides their claims."""

from __future__ import annotations

from tether_lab.lab.stored_result import stored
from tether_lab.papers.troll.study import RATES


def seeds(slug: str) -> list[dict]:
    result = stored(slug)
    assert result is not None
    return result["seeds"]


def notes(slug: str) -> list[dict[str, float]]:
    return [run["notes"] for run in seeds(slug)]


def test_the_projection_is_exact_and_learns_as_well_as_clipping():
    for note in notes("troll"):
        assert note["largest_excess_kl"] <= 1e-6
        assert note["identical_inside"] == 1
        for rate in RATES:
            assert note[f"success_projection_{rate:g}"] >= note[f"success_clip_{rate:g}"] - 0.02
