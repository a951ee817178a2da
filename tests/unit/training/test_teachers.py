"""Teachers of a step: frozen, as the model was, or trailing it; saved with the run and not with the model."""

from __future__ import annotations

import itertools
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tether
from tether.core.errors import InputError, StoppedError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.models.presets import create
from tether.models.save import save
from tether.models.towers.frozen_copy import frozen_copy
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.claim import check_recorded
from tether.training.ema import MovingEncoder, WeightAverage
from tether.training.metrics_log import read_metrics
from tether.training.steps import ComposedStep, StepModule

pytestmark = pytest.mark.slow

TEXTS = ["a heart. It is red", "a cat", "a dog on sand", "the sun"]
VIEWS = {"image": {}, "text": {}, "image_t": {"of": "image", "encoder": "teacher"}}
BOTH = {**VIEWS, "text_t": {"of": "text", "encoder": "teacher"}}
FEW = {"keep_patches": 0.5}
SIMILAR = {"name": "similarity", "teacher_image": "image_t", "teacher_text": "text_t"}


def step_of(*, views=None, terms=None, **more) -> ComposedStep:
    return ComposedStep(
        ClipLoss(), steps=10, seed=3, views=views or BOTH, terms=terms or ["objective", SIMILAR], **more
    )


def batch(model) -> Batch:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, model.tokenizer(TEXTS), {"texts": TEXTS})


def seen(step, module, some, at=0):
    return step.see(module, some, step=at, gather=LOCAL).views


def begun(step, model) -> StepModule:
    step.see_start(model)
    return StepModule(model, heads=step.new_heads(model))


def moved_(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)


# what an average is


@pytest.mark.parametrize(
    ("momentum", "shape", "expected"),
    [
        (0.9, "cosine", [0.9, 0.9, 0.9, 0.9]),
        ((0.996, 1.0), "cosine", [1 + 0.5 * (0.996 - 1) * (1 + math.cos(math.pi * t / 4)) for t in range(4)]),
        ((0.5, 1.0), "linear", [0.5, 0.625, 0.75, 0.875]),
    ],
)
def test_momentum_over_a_run_and_the_rule(momentum, shape, expected):
    model = nn.Linear(3, 2).double()
    ema = MovingEncoder(model, momentum=momentum, shape=shape, steps=4)
    mine = model.weight.detach().clone()
    for step, m in enumerate(expected):
        assert ema.momentum_at(step) == pytest.approx(m)
        moved_(model)
        ema.update_(step=step)
        mine = m * mine + (1 - m) * model.weight.detach()
        torch.testing.assert_close(ema.model.weight.detach(), mine, atol=1e-12, rtol=0)


def test_it_is_the_average_of_a_runs_weights():
    model = nn.Linear(3, 2)
    ema, average = MovingEncoder(model, momentum=0.8, steps=5), WeightAverage(list(model.named_parameters()), decay=0.8)
    for step in range(3):
        moved_(model)
        ema.update_(step=step)
        average.update_()
    assert all(torch.equal(ema.tensors()[name], tensor) for name, tensor in average.tensors().items())


@pytest.mark.parametrize("buffers", ["copied", "averaged"])
def test_buffers_are_copied_or_averaged_and_counts_always_copied(buffers):
    model = nn.BatchNorm1d(2)
    ema = MovingEncoder(model, momentum=0.75, steps=1, buffers=buffers)
    model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(7)
    ema.update_(step=0)
    assert ema.model.running_mean.tolist() == ([4.0, 4.0] if buffers == "copied" else [1.0, 1.0])
    assert ema.model.num_batches_tracked == 7
    assert not ema.model.training


def test_excluded_parameters_are_taken_as_they_are():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    ema = MovingEncoder(model, momentum=0.5, steps=1, exclude=["1.*"])
    moved_(model)
    ema.update_(step=0)
    assert torch.equal(ema.model[1].weight, model[1].weight)
    assert not torch.equal(ema.model[0].weight, model[0].weight)


def test_half_precision_is_averaged_in_full():
    model = nn.Linear(64, 1).bfloat16()
    ema = MovingEncoder(model, momentum=0.999, steps=1)
    before = ema.model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(0.05)
    ema.update_(step=0)
    assert ema.model.weight.dtype == torch.float32
    assert (ema.model.weight != before).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"momentum": 1.5}, "momentum"),
        ({"momentum": 0.9, "exclude": ["wieght"]}, r"no parameter is like 'wieght'; did you mean 'weight'"),
        ({"momentum": 0.9, "steps": 0}, "steps"),
    ],
)
def test_settings_of_an_average_that_cannot_be(settings, said):
    with pytest.raises(InputError, match=said):
        MovingEncoder(nn.Linear(1, 1), **{"steps": 3, **settings})


def test_tensors_of_another_model_are_refused():
    with pytest.raises(InputError, match="of another model"):
        MovingEncoder(nn.Linear(1, 2), momentum=0.9, steps=1).load({"weight": torch.zeros(1, 1)})


# what a step's teacher reads


@pytest.mark.parametrize("teacher", ["start", {"ema": {"momentum": 0.9}}])
def test_a_copy_reads_the_same_view_as_the_student_and_keeps_what_it_was(teacher):
    model = create("tiny", seed=0)
    step = step_of(teacher=teacher)
    module, some = begun(step, model), batch(model)
    first = seen(step, module, some)
    for side in ("image", "text"):
        torch.testing.assert_close(first[f"{side}_t"].features.pooled, first[side].features.pooled)
        assert first[side].features.pooled.requires_grad
        assert not first[f"{side}_t"].features.pooled.requires_grad
    moved_(model)
    second = seen(step, module, some)
    assert torch.equal(second["image_t"].features.pooled, first["image_t"].features.pooled)
    assert not torch.equal(second["image"].features.pooled, first["image"].features.pooled)


def test_a_moving_teacher_follows_each_step_once():
    model = create("tiny", seed=0)
    step = step_of(teacher={"ema": {"momentum": [0.5, 1.0], "shape": "linear"}})
    module = begun(step, model)
    mine = frozen_copy(model)
    for at in range(3):
        moved_(model)
        step.follow_(step=at)
        m = 0.5 + 0.05 * at
        for average, weight in zip(mine.parameters(), model.parameters(), strict=True):
            average.data = m * average + (1 - m) * weight.detach()
    torch.testing.assert_close(
        seen(step, module, batch(model))["image_t"].features.pooled, mine.encode_image(batch(model).image).pooled
    )


def test_of_another_view_is_its_very_window():
    model = create("tiny", seed=0)
    views = {
        "image": {},
        "text": {},
        "crop": {"source": "image", "crop": 0.4, "keep_patches": 0.5},
        "crop_t": {"of": "crop", "encoder": "teacher"},
        "other": {"source": "image", "crop": 0.4, "encoder": "teacher"},
    }
    terms = [
        "objective",
        {"name": "clip", "image": "crop", "text": "text"},
        {"name": "clip", "image": "crop_t", "text": "text"},
        {"name": "clip", "image": "other", "text": "text"},
    ]
    step = step_of(views=views, terms=terms, teacher="start")
    found = seen(step, begun(step, model), batch(model), at=4)
    assert torch.equal(found["crop"].rows, found["crop_t"].rows)
    assert not torch.equal(found["crop"].rows, found["other"].rows)


def test_it_gives_tokens_and_reads_rewritten_texts_of_its_student():
    model = create("tiny", seed=0, context=48)
    views = {
        "image": {"want": "tokens"},
        "text": {},
        "image_t": {"of": "image", "encoder": "teacher"},
        "short": {"source": "text", "rewrite": {"name": "sentences", "most": 1}},
        "short_t": {"of": "short", "encoder": "teacher"},
    }
    terms = [
        "objective",
        {"name": "clip", "image": "image_t", "text": "short"},
        {"name": "clip", "image": "image", "text": "short_t"},
    ]
    step = step_of(views=views, terms=terms, teacher="start")
    found = seen(step, begun(step, model), batch(model))
    torch.testing.assert_close(found["image_t"].features.tokens, found["image"].features.tokens)
    torch.testing.assert_close(found["short_t"].features.pooled, found["short"].features.pooled)


@pytest.mark.parametrize("micro", [None, 3])
def test_a_loaded_teacher_of_another_make_reads_in_slices(tmp_path, micro):
    save(create("tiny", seed=9, context=20).eval(), tmp_path / "other")
    model = create("tiny", seed=0)
    step = step_of(teacher={"load": str(tmp_path / "other")})
    begun(step, model)
    found = seen(step, StepModule(model, micro_batch=micro), batch(model))
    other = tether.load(tmp_path / "other")
    with torch.no_grad():
        torch.testing.assert_close(found["image_t"].features.pooled, other.encode_image(batch(model).image).pooled)
        torch.testing.assert_close(
            found["text_t"].features.pooled, other.encode_text(other.tokenizer(TEXTS)).pooled, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("encoder", ["teacher", "other"])
def test_images_of_a_size_that_the_reader_does_not_take_name_their_view(tmp_path, encoder):
    save(create("tiny", image_size=64).eval(), tmp_path / "other")
    name, model = encoder if encoder == "teacher" else str(tmp_path / "other"), create("tiny", seed=0)
    teacher = {"teacher": {"load": str(tmp_path / "other")}} if encoder == "teacher" else {}
    views = {"image": {}, "text": {}, "image_t": {"source": "image", "encoder": name}}
    terms = ["objective", {**SIMILAR, "teacher_text": "text"}]
    step = step_of(**teacher, views=views, terms=terms)
    with pytest.raises(
        InputError, match=r"image_t: encoder .* takes images of 64 x 64, got 32 x 32; give the view size"
    ):
        seen(step, begun(step, model), batch(model))
    views["image_t"]["size"] = 64
    step = step_of(**teacher, views=views, terms=terms)
    assert seen(step, begun(step, model), batch(model))["image_t"].features.pooled.shape == (4, 64)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"teacher": "strat"}, "expected start, {load: NAME} or {ema"),
        ({"teacher": {"load": 3}}, "load: expected a name or a folder, got 3"),
        ({"teacher": {"ema": 0.9}}, "ema: expected settings by name, got 0.9"),
        ({"teacher": {"ema": {"momentum": [0.9, 1.2]}}}, "momentum"),
        ({"teacher": {"ema": {"decay": 0.9}}}, "unknown key 'decay'"),
        ({"teacher": {"start": {}, "ema": {}}}, "expected start"),
        ({}, "needs the step's setting teacher"),
        ({"teacher": "start", "views": {"image": {}, "text": {}}, "terms": ["objective"]}, "teacher; they have model"),
        ({"teacher": "start", "views": {**BOTH, "text_t": {"of": "txt", "encoder": "teacher"}}}, "did you mean 'text'"),
        ({"teacher": "start", "views": {**BOTH, "text_t": {"of": "text", "context": 3}}}, "of: context: only encoder"),
        (
            {"teacher": "start", "views": {**BOTH, "image_t": {"source": "image", "encoder": "teacher", **FEW}}},
            "the teacher sees whole images",
        ),
        (
            {"teacher": {"load": "x"}, "views": {**BOTH, "text": {"rewrite": {"name": "sentences"}}}},
            "a loaded teacher reads the captions",
        ),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be(more, said):
    with pytest.raises(InputError, match=said):
        step_of(**more)


# runs

RUN = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=12",
    "accumulate=2",
    "steps=6",
    "precision=fp32",
    "threads=1",
    "optimizer={name: adamw, lr: 0.01}",
]
TAUGHT = (
    "step={views: {image: {}, text: {}, image_t: {of: image, encoder: teacher}, text_t: {of: text, encoder: teacher}}, "
)
TERMS = "terms: [objective, {name: similarity, teacher_image: image_t, teacher_text: text_t}], teacher: "


def config(teacher: str, *more: str):
    return load_config(overrides=[*RUN, f"{TAUGHT}{TERMS}{teacher}}}", *more])


@pytest.mark.parametrize("teacher", ["{ema: {momentum: [0.6, 1.0]}}", "start"])
def test_a_stopped_run_goes_on_bit_for_bit_and_saves_no_teacher(tmp_path, teacher):
    train(config(teacher), folder=tmp_path / "whole")
    steps = []
    with pytest.raises(StoppedError):
        train(config(teacher), folder=tmp_path / "run", should_stop=lambda: steps.append(0) or len(steps) == 3)
    saved = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert ("teacher" in saved.tensors) == ("ema" in teacher)
    train(config(teacher), folder=tmp_path / "run", resume=True)
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert mine.keys() == create("tiny").state_dict().keys()
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("run", "whole")]
    assert [one["loss"] for one in records[0]] == [one["loss"] for one in records[1]]


def test_a_moving_teacher_moves_once_a_step_whatever_is_accumulated(tmp_path):
    train(config("{ema: {momentum: 0.5}}", "save_every=1", "keep=10"), folder=tmp_path / "run")
    saved = [load_checkpoint(path) for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    name = "visual.projection.weight"
    for before, after in itertools.pairwise(saved):
        expected = (before.tensors["teacher"][name] + after.tensors["model"][name]) / 2
        torch.testing.assert_close(after.tensors["teacher"][name], expected, atol=1e-6, rtol=1e-5)


def test_a_run_does_not_go_on_with_another_teacher(tmp_path):
    for seed in (0, 1):
        save(create("tiny", seed=seed).eval(), tmp_path / str(seed))
    shutil.copytree(tmp_path / "0", tmp_path / "teacher")
    taught = config(f"{{load: {tmp_path / 'teacher'}}}")
    with pytest.raises(StoppedError):
        train(taught, folder=tmp_path / "run", should_stop=lambda: True)
    shutil.copy(tmp_path / "1" / "model.safetensors", tmp_path / "teacher" / "model.safetensors")
    with pytest.raises(InputError, match="teacher: its weights are not those that the run began with"):
        train(taught, folder=tmp_path / "run", resume=True)


def test_a_record_leads_to_no_teacher_elsewhere(tmp_path):
    with pytest.raises(InputError, match=r"step\.teacher\.load"):
        check_recorded(config("{load: 'hf:someone/model'}"), given=[], folder=tmp_path / "run")


def test_the_next_stage_goes_on_with_the_same_teacher(tmp_path):
    stages = "stages=[{steps: 3}, {steps: 3, learning_rate: 0.5}]"
    with pytest.raises(StoppedError):
        train(
            config("{ema: {momentum: 0.9}}", stages, "save_every=1", "keep=10"),
            folder=tmp_path / "run",
            should_stop=iter([False] * 4 + [True] * 9).__next__,
        )
    saved = [load_checkpoint(path) for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    name = "visual.projection.weight"
    for before, after in itertools.pairwise(saved):
        expected = 0.9 * before.tensors["teacher"][name] + 0.1 * after.tensors["model"][name]
        torch.testing.assert_close(after.tensors["teacher"][name], expected, atol=1e-6, rtol=1e-5)
