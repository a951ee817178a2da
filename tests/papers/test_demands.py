"""What the measured notes of papers must say besides their claims."""

from __future__ import annotations

from tether.papers.cards.troll import RATES
from tether.papers.cards.wgan_gp import CARD
from tether.papers.reproduction.reproduce import stored


def seeds(slug: str) -> list[dict]:
    result = stored(slug)
    assert result is not None
    return result["seeds"]


def notes(slug: str) -> list[dict[str, float]]:
    return [run["notes"] for run in seeds(slug)]


def test_clipping_is_what_saves_adagrad_and_the_weighting_pays_at_small_steps():
    for note in notes("clip-radagrad"):
        assert note["times_below_radagradd"] >= 1000
        assert note["times_below_adagrad"] >= 3
        assert note["small_step_worst_clip_adagradd"] >= 5 * note["small_step_worst_clip_radagradd"]


def test_stable_spam_takes_spikes_for_a_tenth_and_a_plain_limit_does_as_well():
    for note in notes("stable-spam"):
        assert note["excess_adam"] >= 10 * note["excess_stable_spam"]
        assert note["validation_adam_clipped"] <= note["validation_stable_spam"]


def test_clipped_weights_stick_to_their_bound_and_the_penalty_holds_the_slope():
    for note in notes("wgan-gp"):
        assert note["weights_at_bound_0.01"] >= 0.5
        assert 0.5 <= note["slope_penalty"] <= 2.5
    for run in seeds("wgan-gp"):
        assert run["ours"] >= run["baseline"] + CARD.claim.margin


def test_the_projection_is_exact_and_learns_as_well_as_clipping():
    for note in notes("troll"):
        assert note["largest_excess_kl"] <= 1e-6
        assert note["identical_inside"] == 1
        for rate in RATES:
            assert note[f"success_projection_{rate:g}"] >= note[f"success_clip_{rate:g}"] - 0.02
