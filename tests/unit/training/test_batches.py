"""Runs on batches with views, regions and a second data set: what their steps see, and going on after a stop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tether.core.errors import InputError, StoppedError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.models import create
from tether.models.tokenizer import TextCutWarning
from tether.training import RunConfig, load_config, train
from tether.training.batches import words_of
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics
from tether.training.parts import check_parts
from tether.training.steps import ComposedStep, StepModule

SCENES = {"name": "scenes", "rows": 24, "size": 64, "captions": "both"}
CONTENTS = {
    "crops": {"image": {"scale": [0.4, 1.0]}, "second_image": {"scale": [0.2, 0.6], "flip": 0.5}},
    "captions": {"second_text": "random"},
    "regions": {"most": 2, "phrases": "phrases", "unit": "pixel"},
}
STEP = {
    "views": {
        "image": {},
        "text": {},
        "second_image": {"crop": 0.5},
        "second_text": {},
        "region_text": {},
        "more_text": {},
    },
    "terms": [
        "objective",
        {"name": "clip", "image": "second_image", "text": "second_text"},
        {"name": "clip", "image": "region_text", "text": "region_text", "weight": 0.1},
        {"name": "clip", "image": "more_text", "text": "more_text", "weight": 0.1},
    ],
}


def config(**more: Any) -> RunConfig:
    values = {
        "data": SCENES,
        "size": "tiny",
        "model": {"image_size": 64, "context": 32},
        "contents": CONTENTS,
        "beside": {"more": {"data": {**SCENES, "seed": 1}, "batch_size": 3, "contents": {"images": False}}},
        "step": STEP,
        "steps": 6,
        "batch_size": 4,
        "precision": "fp32",
        "threads": 1,
        "vocabulary": "used",
        "save_every": 1000,
    }
    return RunConfig.model_validate({**values, **more})


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    train(config(save_every=5), folder=tmp_path / "whole")
    asked = iter(range(100))
    with pytest.raises(StoppedError):
        train(config(save_every=5), folder=tmp_path / "stopped", should_stop=lambda: next(asked) == 2)
    train(config(save_every=5), folder=tmp_path / "stopped", resume=True)
    whole, stopped = (list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "stopped"))
    assert [record["loss"] for record in whole] == [record["loss"] for record in stopped]
    one, two = (load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("whole", "stopped"))
    assert one.state["data"] == two.state["data"]
    assert set(one.state["data"]) == {"first", "second"}
    assert all(torch.equal(one.tensors["model"][name], two.tensors["model"][name]) for name in one.tensors["model"])


def test_phrases_are_among_the_words_that_are_trained():
    words = words_of([config(), config()], where="here")
    assert any(" " in word and word.split()[0] in ("red", "blue", "green") and len(word.split()) == 2 for word in words)
    plain = config(contents={})
    assert len(words_of([plain], where="here")) < len(words)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"contents": {"crop": {}}}, r"here: contents \(contents\): unknown key 'crop'; did you mean 'crops'"),
        ({"contents": {"crops": {"second": {}}}}, "crops: second: expected a name of its own"),
        ({"beside": {"a b": {"data": "emoji"}}}, "beside: expected a name, got 'a b'"),
        (
            {"beside": {"more": {"data": "emoji", "caption": "last"}}},
            "here: beside: more: caption: unknown part 'last'",
        ),
        ({"beside": {"more": {"data": "emoji", "contents": {"regions": {}}}}}, "'most' is required"),
        ({"stages": [{"share": 0.5}, {"share": 0.5, "contents": {"images": 3}}]}, "entry 1: contents.*images"),
    ],
)
def test_settings_are_refused_before_a_row_is_read(more, says):
    with pytest.raises(InputError, match=says):
        check_parts(config(**more), {}, where="here")


def test_a_view_knows_which_part_of_the_original_it_shows():
    across = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(8, 3, 64, 64).contiguous()
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]]).expand(8, 4)
    flipped = torch.arange(8) % 2 == 1
    shown = torch.where(flipped[:, None, None, None], across.flip(3), across)
    extra = {"second_image": shown, "second_image_box": box, "second_image_flipped": flipped}
    views = {"image": {}, "text": {}, "second_image": {"crop": 0.3, "size": 32}}
    terms = ["objective", {"name": "clip", "image": "second_image"}]
    step = ComposedStep(ClipLoss(), steps=4, seed=0, views=views, terms=terms)
    module = StepModule(create("tiny"))
    seen = step.views["second_image"].rows(module, Batch(shown, torch.ones(8, 2).long(), extra), step=1, gather=LOCAL)
    assert seen is not None
    for rows, (x0, y0, x1, y1), mirrored in zip(seen.rows, seen.about["box"], seen.about["flipped"], strict=True):
        assert 0.25 <= x0 < x1 <= 0.75
        assert 0.5 <= y0 < y1 <= 1.0
        assert (x1 - x0) >= 0.3 * 0.5 - 1e-6
        place = (torch.arange(32) + 0.5) / 32
        place = x0 + (1 - place if mirrored else place) * (x1 - x0)  # in the original, of which 0.25 to 0.75 are seen
        expected = ((place - 0.25) / 0.5 * 64 - 0.5) / 63 * 255
        assert (rows[0, 16] - expected)[2:-2].abs().max() < 2


def test_a_view_of_images_that_were_not_opened_is_refused():
    step = ComposedStep(ClipLoss(), steps=4, seed=0)
    batch = Batch(torch.empty(2, 3, 0, 0, dtype=torch.uint8), torch.ones(2, 2).long())
    with pytest.raises(InputError, match="image: expected rows to encode"):
        step(StepModule(create("tiny")), batch, step=0, gather=LOCAL)


def test_captions_that_a_recipe_shortens_are_cut_without_a_word(tmp_path):
    settings = ["data=emoji:split=validation,size=32", "size=tiny", "steps=1", "batch_size=64", "model={context: 5}"]
    train(load_config(overrides=[*settings, "caption={name: shortened, context: 5}"]), folder=tmp_path / "short")
    with pytest.warns(TextCutWarning, match="were cut"):
        train(load_config(overrides=settings), folder=tmp_path / "plain")
