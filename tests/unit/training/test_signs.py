"""Signs are named where they are planted, and none where a run goes well."""

from __future__ import annotations

import math

import pytest
import torch

from tether.core.errors import InputError
from tether.training import load_config
from tether.training.config import Rollback
from tether.training.rollback import StepWatch, check_rollback
from tether.training.signs import FEWEST, RunCourse, chance, signs_of

STEPS = 200
CLIP = {"batch_size": 64, "steps": STEPS}


def course(**change):
    """A run that goes well, with some columns as given: functions of the share of the run."""
    usual = {
        "loss": lambda share: 4.0 - 2 * share + 0.05 * math.sin(997 * share),
        "grad_norm": lambda share: 1.0 + 0.1 * math.sin(31 * share),
        "lr": lambda share: 1e-3 * (1 - share),
        "logit_scale": lambda share: 14 + 30 * share,
        "skipped": lambda share: False,
    }
    columns = {**usual, **change}
    return [{"step": step} | {name: value(step / STEPS) for name, value in columns.items()} for step in range(STEPS)]


def test_a_good_run_has_none():
    assert signs_of(course(), config=CLIP) == {}
    assert signs_of(course(lr=lambda share: 1e-3), config={}) == {}


@pytest.mark.parametrize(
    ("sign", "change", "seen"),
    [
        ("chance", {"loss": lambda share: 4.15 + 0.01 * math.sin(997 * share)}, "4.15, which is chance"),
        (
            "collapse",
            {
                "loss": lambda share: 4.159 if share > 0.2 else 3.5,
                "grad_norm": lambda share: 0.01 if share > 0.2 else 1,
            },
            "fell to 0.01 from 1",
        ),
        ("rest", {"lr": lambda share: 0.0, "loss": lambda share: 4.5}, "0 for 200 steps"),
        ("plateau", {"loss": lambda share: max(2.5, 4 - 10 * share)}, "stayed at 2.5"),
        ("divergence", {"loss": lambda share: 2 + 4 * abs(share - 0.4)}, "rises: 4.19"),
        ("scale", {"logit_scale": lambda share: min(100, 14 + 200 * share)}, "its bound, 100"),
        ("skipped", {"skipped": lambda share: round(STEPS * share) % 20 == 3}, "10 of 200 steps"),
        (
            "growing",
            {"grad_norm": lambda share: 10 ** (4 * share), "loss": lambda share: 3 + abs(share - 0.7)},
            "3.09e+03 over the last quarter",
        ),
    ],
)
def test_each_sign_is_named_with_its_figures_and_advice(sign, change, seen):
    found = signs_of(course(**change), config=CLIP)
    assert list(found) == [sign]
    assert seen in found[sign]
    assert "; " in found[sign]


def test_steps_whose_loss_is_not_a_number_and_other_records_do_no_harm():
    records = course(loss=lambda share: None if 0.3 < share < 0.5 else 4 - 2 * share)
    records[50:50] = [{"step": 50, "eval": {"recall": 0.5}}, {"step": 50, "rollback": {"to": 40}}]
    assert signs_of(records, config=CLIP) == {}
    assert signs_of([{"step": step, "loss": None} for step in range(STEPS)], config=CLIP) == {}
    assert signs_of(course()[: FEWEST - 1], config=CLIP) == {}


def test_a_loss_may_begin_at_chance():
    records = course(loss=lambda share: min(4.159, 4.9 - 3 * share))
    assert signs_of(records[:60], config=CLIP | {"steps": 1000}) == {}
    assert list(signs_of(records[:60], config=CLIP)) == ["chance"]


def test_noise_is_not_a_plateau():
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0)).mul(0.05).tolist()
    records = [{"step": step, "loss": 3 + one, "lr": 1.0} for step, one in enumerate(noise)]
    assert signs_of(records[:100], config={}) == {}
    assert list(signs_of(records, config={})) == ["plateau"]


def test_stages_are_not_compared():
    records = course(loss=lambda share: 2 - share if share < 0.5 else 5 - share)
    assert list(signs_of(records, config=CLIP)) == ["divergence"]
    for stages in ([{"share": 0.5}, {"share": 0.5}], [{"steps": 100}, {"steps": 100}]):
        assert signs_of(records, config=CLIP | {"stages": stages}) == {}


def test_the_bound_of_the_scale_is_the_models():
    records = course(logit_scale=lambda share: min(30, 14 + 100 * share))
    assert signs_of(records, config=CLIP) == {}
    assert list(signs_of(records, config=CLIP | {"model": {"logit_scale_range": [1, 30]}})) == ["scale"]


def test_a_sign_is_new_once():
    one = RunCourse(CLIP)
    for record in course(loss=lambda share: 4.16):
        one.add(record)
    new = one.new_signs()
    assert list(new) == ["chance"]
    one.add({"step": STEPS, "signs": new})
    assert one.new_signs() == {}


def test_chance_is_known_for_clips_loss_alone():
    assert chance({"batch_size": 64}) == pytest.approx(math.log(64))
    assert chance({"batch_size": 64, "objective": {"name": "clip", "smoothing": 0.1}}) == pytest.approx(math.log(64))
    assert chance({"batch_size": 64, "objective": "siglip"}) is None
    assert chance({}) is None


def steady(watch: StepWatch, count: int = 8) -> StepWatch:
    for step in range(count):
        assert watch.see(step, loss=2 + 0.01 * (step % 2), norm=1 + 0.1 * (step % 3)) is None
    return watch


def test_spikes_and_what_is_not_finite_are_bad_and_not_remembered():
    watch = steady(StepWatch(Rollback(window=8)))
    assert watch.see(8, loss=math.inf, norm=1.0) == "loss not finite"
    assert watch.see(9, loss=2.0, norm=math.inf) == "gradients not finite"
    assert watch.see(10, loss=2.5, norm=1.0) == "loss 2.5, where 2.406 is the limit"
    assert watch.see(11, loss=2.0, norm=30.0) == "gradient norm 30, where 11 is the limit"
    assert watch.bad == [8, 9, 10, 11]
    assert watch.see(12, loss=2.3, norm=2.0) is None
    assert watch.bad == []


def test_a_noisy_past_bears_more():
    watch = StepWatch(Rollback(window=8, deviations=4.0))
    for step in range(8):
        watch.see(step, loss=2 + 0.3 * (step % 4), norm=1.0)
    assert watch.see(8, loss=3.6, norm=1.0) is None
    assert watch.see(9, loss=5.0, norm=1.0) is not None


def test_a_falling_loss_is_not_a_noisy_one():
    watch = StepWatch(Rollback(window=20))
    for step in range(20):
        assert watch.see(step, loss=5 - 0.1 * step, norm=1.0) is None
    assert watch.see(20, loss=5.0, norm=1.0) == "loss 5, where 4.889 is the limit"


def test_nothing_is_a_spike_before_half_the_window_is_known():
    watch = steady(StepWatch(Rollback(window=20)), count=8)
    assert watch.see(8, loss=50.0, norm=50.0) is None
    assert watch.see(9, loss=math.inf, norm=1.0) is not None


def test_the_search_for_a_loss_scale_is_not_bad():
    watch = StepWatch(Rollback(), scaled=True)
    assert watch.see(0, loss=2.0, norm=math.inf) is None
    assert watch.see(1, loss=math.inf, norm=math.inf) == "loss not finite"


def test_it_goes_on_from_its_state():
    watch = steady(StepWatch(Rollback(window=8)))
    watch.see(8, loss=9.0, norm=1.0)
    other = StepWatch(Rollback(window=8))
    other.load_state_dict(watch.state_dict())
    for one in (watch, other):
        assert one.see(9, loss=2.5, norm=1.0) == "loss 2.5, where 2.406 is the limit"
        assert one.bad == [8, 9]


@pytest.mark.parametrize("setting", ["every=0", "states=9", "window=3", "deviations=0", "further=-1", "most=0", "n=1"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match=r"rollback\." + setting.partition("=")[0]):
        load_config(overrides=["data=emoji", f"rollback.{setting}"])


def test_it_is_off_unless_asked_for():
    assert load_config(overrides=["data=emoji"]).rollback is None
    config = load_config(overrides=["data=emoji", "rollback={}"])
    assert config.rollback == Rollback()
    check_rollback(config, where="settings")
