"""Stretches of a run: how they are cut, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tether.adaptation.finetune import ADAPTERS
from tether.core.errors import InputError
from tether.training import RunConfig, load_config, train
from tether.training.config import dump_config
from tether.training.parts import check_parts
from tether.training.schedules import Cosine, StageSchedule
from tether.training.stages import stretches
from tether.workflows.clipper_comparison.compare import compare

TAUGHT = {
    "views": {"image": {}, "text": {}, "seen": {"source": "image", "encoder": "teacher"}},
    "terms": ["objective", {"name": "clip", "image": "seen"}],
}
TURNING = {"text": {"position": "none", "block": {"rope": "half"}, "layers": 1}, "vision": {"layers": 1}}


def config(stages: list[dict[str, Any]], **more: Any) -> RunConfig:
    return RunConfig(data="emoji:split=validation,size=32", size="tiny", stages=stages, **{"steps": 10, **more})  # pyrefly: ignore


def test_a_run_is_cut_at_its_shares_or_at_its_steps():
    for stages in ([{"share": 0.33}, {"share": 0.33}, {"share": 0.34}], [{"steps": 3}, {"steps": 4}, {"steps": 3}]):
        assert [(one.first, one.end) for one in stretches(config(stages), where="here")] == [(0, 3), (3, 7), (7, 10)]
    assert [(one.first, one.end) for one in stretches(config([]), where="here")] == [(0, 10)]


def test_a_stage_changes_what_it_names_and_nothing_else():
    plan = stretches(config([{"share": 0.5}, {"share": 0.5, "batch_size": 4, "trainable": ["visual.*"]}]), where="here")
    assert plan[1].keeps(plan[0], "data", "step")
    assert not plan[1].keeps(plan[0], "data", "batch_size")
    assert (plan[0].config.batch_size, plan[1].config.batch_size) == (256, 4)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([{"share": 0.5}, {"share": 0.4}], r"shares that add up to 1, got 0.5 \+ 0.4"),
        ([{"steps": 5}, {"steps": 4}], r"expected 10 steps together, got 5 \+ 4"),
        ([{"steps": 5}, {"share": 0.5}], "a share in every one, or steps in every one"),
        ([{"share": 0.99}, {"share": 0.01}], "entry 1: not one of 10 steps falls into it"),
        ([{"share": 0.5}, {"share": 0.5, "step": "specks"}], "entry 1: step: unknown part 'specks'"),
        ([{"share": 0.5}, {"share": 0.5, "image_size": 65}], "65"),
        ([{"share": 0.5}, {"share": 0.5, "how": "linear"}], "entry 1: how: neither image_size nor context is other"),
        ([{"share": 0.5}, {"share": 0.5, "context": 64, "how": "linar"}], "how: unknown 'linar'; did you mean"),
        ([{"share": 0.5}, {"share": 0.5, "context": 64, "how": "rotary"}], "rotary makes another text tower"),
        ([{"share": 0.5}, {"share": 0.5, "schedule": "cosin"}], "entry 1: schedule: unknown part 'cosin'"),
        ([{"share": 1.0, "base_lr": 1e-6, "learning_rate": 0.5}], "give learning_rate, a factor, or base_lr, not both"),
        ([{"share": 1.0, "base_lr": 1e-6, "batch_size": 255}], "base_lr: batch: expected at least 256 pairs"),
    ],
)
def test_stages_that_do_not_make_a_run_are_refused(stages, says):
    with pytest.raises(InputError, match=says):
        check_parts(config(stages), {}, where="here")


def test_a_loaded_model_is_resized():
    plan = stretches(config([{"share": 1.0, "context": 64}], model={"load": "old", "resized": {"patch": 4}}), where="")
    assert plan[0].config.model == {"load": "old", "resized": {"patch": 4, "context": 64}}


@pytest.mark.parametrize(
    ("more", "says"),
    [({"edits": ["lora"]}, "the sizes of an edited model"), ({"step": {"teacher": "start"}}, "the teacher, start")],
)
def test_what_cannot_follow_another_size_is_refused(more, says):
    if "step" in more:
        more = {"step": {**more["step"], **TAUGHT}}
    with pytest.raises(InputError, match=says):
        check_parts(config([{"share": 0.5}, {"share": 0.5, "image_size": 64}], **more), ADAPTERS, where="here")


def test_a_stage_may_have_a_schedule_and_a_rate_of_its_own():
    schedule = StageSchedule(Cosine(warmup=2), first=10, end=20)
    assert [schedule.factor(step, steps=100) for step in (10, 11)] == [0.5, 1.0]
    assert schedule.factor(19, steps=100) < 0.1
    assert schedule.factor(15, steps=100) == Cosine(warmup=2).factor(5, steps=10)
    stages = [{"share": 0.5}, {"share": 0.5, "schedule": "constant", "base_lr": 1e-5, "batch_size": 520}]
    plan = check_parts(config(stages), {}, where="here")
    assert [(one.own_schedule, one.base_lr) for one in plan] == [(False, None), (True, 1e-5)]


def test_a_comparison_of_clippers_stays_within_the_first_stage(tmp_path):
    with pytest.raises(InputError, match="at most the 30 of the run's first stage, got 40"):
        compare(config([{"share": 0.5}, {"share": 0.5}], steps=60), folder=tmp_path, steps=40)


def test_patterns_of_parameters_must_fit_some(tmp_path):
    with pytest.raises(InputError, match=r"trainable: no parameter is like 'visul.\*'"):
        train(config([], trainable=["visul.*"], batch_size=4, precision="fp32", steps=1), folder=tmp_path / "run")


def test_texts_without_a_table_of_places_may_grow_and_a_recipe_is_written_as_it_was_read(tmp_path):
    stages = [{"share": 0.5}, {"share": 0.5, "context": 40, "learning_rate": 0.5}]
    settings = config(stages, model=TURNING, steps=2, batch_size=4, precision="fp32", threads=1, vocabulary="used")
    train(settings, folder=tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml") == settings
    assert "context: 40" in dump_config(settings)

    import tether

    assert tether.load(tmp_path / "run").tokenizer.context_length == 40
