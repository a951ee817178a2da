"""What the measured notes of the optimisers must say besides their claims."""

from __future__ import annotations

from tether.core.atomic_io import read_json
from tether.papers.reproduction import source_index


def notes(slug: str) -> list[dict[str, float]]:
    path = source_index.result_path(slug)
    assert path is not None
    return [run["notes"] for run in read_json(path)["seeds"]]


def test_clipping_is_what_saves_adagrad_and_the_weighting_pays_at_small_steps():
    for note in notes("clip-radagrad"):
        assert note["times_below_radagradd"] >= 1000
        assert note["times_below_adagrad"] >= 3
        assert note["small_step_worst_clip_adagradd"] >= 5 * note["small_step_worst_clip_radagradd"]


def test_stable_spam_takes_spikes_for_a_tenth_and_a_plain_limit_does_as_well():
    for note in notes("stable-spam"):
        assert note["excess_adam"] >= 10 * note["excess_stable_spam"]
        assert note["validation_adam_clipped"] <= note["validation_stable_spam"]
