"""What the measured notes of wgan-gp and troll must say besides their claims."""

from __future__ import annotations

from tether.core.atomic_io import read_json
from tether.papers.cards.troll import RATES
from tether.papers.cards.wgan_gp import CARD
from tether.papers.reproduction import source_index


def seeds(slug: str) -> list[dict]:
    path = source_index.result_path(slug)
    assert path is not None
    return read_json(path)["seeds"]


def test_clipped_weights_stick_to_their_bound_and_the_penalty_holds_the_slope():
    for run in seeds("wgan-gp"):
        assert run["notes"]["weights_at_bound_0.01"] >= 0.5
        assert 0.5 <= run["notes"]["slope_penalty"] <= 2.5
        assert run["ours"] >= run["baseline"] + CARD.claim.margin


def test_the_projection_is_exact_and_learns_as_well_as_clipping():
    for run in seeds("troll"):
        assert run["notes"]["largest_excess_kl"] <= 1e-6
        assert run["notes"]["identical_inside"] == 1
        for rate in RATES:
            assert run["notes"][f"success_projection_{rate:g}"] >= run["notes"][f"success_clip_{rate:g}"] - 0.02
