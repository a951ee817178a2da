"""Runs with heads that trail, and with experts, go on from a checkpoint as if they had never stopped."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import tether
from tether.core.errors import InputError, StoppedError
from tether.models import create
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics

COMMON = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=8",
    "accumulate=2",
    "micro_batch=5",
    "steps=4",
    "precision=fp32",
    "vocabulary=used",
    "ema=0.9",
    "threads=1",
]
STRONG = [
    "contents={crops: {strong_image: {scale: [0.08, 1.0]}}, captions: {strong_text: augmented}}",
    "step={teacher: {ema: {momentum: 0.9}}, views: {image: {}, text: {}, strong_image: {}, strong_text: {}, "
    "t1: {of: image, encoder: teacher}, t2: {of: text, encoder: teacher}, t3: {of: strong_image, encoder: teacher}, "
    "t4: {of: strong_text, encoder: teacher}}, "
    "terms: [{name: rocket, local_images: [strong_image], local_texts: [strong_text]}, "
    "{name: siamese, local_images: [strong_image], local_texts: [strong_text], "
    "targets: {image: t1, text: t2, strong_image: t3, strong_text: t4}}, {name: barlow}], "
    "heads: {projectors: {name: projectors, hidden: [16], scale: 10}, "
    "siamese: {name: projectors, hidden: [16], out: 8, predictor: 16, momentum: 0.9}, "
    "barlow: {name: projectors, hidden: [16], out: 24, last_norm: plain}}}",
]
UPCYCLED = [
    "model={load: DENSE, upcycle: {experts: 4, capacity_factor: 1.5, blocks: all}}",
    "step={terms: [objective, {name: experts, balance: 0.1}]}",
]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    tether.save(create("tiny", seed=5), folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        (STRONG, ("rocket", "siamese", "barlow", "local_scale", "image_local")),
        (UPCYCLED, ("experts", "image_load_balance", "text_top_share", "text_dropped")),
    ],
    ids=["heads", "experts"],
)
def test_a_stopped_run_goes_on_bit_for_bit(settings, logged, dense, tmp_path):
    config = load_config(overrides=[*COMMON, *(setting.replace("DENSE", str(dense)) for setting in settings)])
    train(config, folder=tmp_path / "whole")
    seen = []

    def stop():
        seen.append(None)
        return len(seen) == 2

    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "parts", should_stop=stop)
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "parts" / "checkpoints")[-1])
    train(config, folder=tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    for key in ("loss", *logged):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]]
    if settings is STRONG:
        heads = checkpoint.tensors["heads"]
        assert not any(name.startswith(("siamese.", "barlow.", "projectors.")) for name in whole)
        trailing = [name for name in heads if ":trailing." in name]
        assert any(not torch.equal(heads[name], heads[name.replace(":trailing", "")]) for name in trailing)
        assert any("heads.projectors.log_scale" in name for name in checkpoint.tensors["optimizer"])
    else:
        router = "visual.blocks.0.experts.router"
        assert f"{router}.exp_avg" in checkpoint.tensors["optimizer"]
        up = tether.load(tmp_path / "whole").visual.blocks[0].experts.up
        assert not torch.equal(up[0], up[1])  # experts have learnt different things
        assert not torch.equal(whole[router], checkpoint.tensors["model"][router])


def test_a_run_without_experts_has_none_to_balance(tmp_path):
    with pytest.raises(InputError, match="experts: no tower has any"):
        train(load_config(overrides=[*COMMON, UPCYCLED[1]]), folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{load: DENSE, upcycle: {expert: 4}}", "model: upcycle: unknown key 'expert'; did you mean 'experts'"),
        ("{load: DENSE, upcycle: {experts: 2, top_k: 3}}", "model: upcycle: top_k: expected at most experts=2, got 3"),
        ("{load: DENSE, upcycle: {capacity_factor: 0}}", "model: upcycle: capacity_factor: expected"),
        ("{load: DENSE, upcycle: {blocks: [9]}}", "model: upcycle: moe: blocks: expected indices below"),
        ("{upcycle: {experts: 2}}", "model: upcycle: changes a model that is there; expected 'load' beside it"),
    ],
)
def test_bad_upcycling_is_refused(model, said, dense, tmp_path):
    with pytest.raises(InputError, match=said):
        train(load_config(overrides=[*COMMON, f"model={model.replace('DENSE', str(dense))}"]), folder=tmp_path / "run")


def test_another_start_keeps_what_the_recipe_makes_of_it(dense, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: emoji\nmodel: {load: model/, upcycle: {experts: 4}}\n")
    config = load_config(recipe, values={"model": {"load": str(dense)}})
    assert config.model == {"load": str(dense), "upcycle": {"experts": 4}}
