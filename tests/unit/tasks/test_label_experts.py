"""Experts that people have: tiny models of transformers from folders, and the command that asks them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tether.cli.label import command
from tether.core.errors import InputError, UnsupportedModelError
from tether.data.dense_labels import LabelStore
from tether.tasks.label import TransformersExpert
from tether.workflows.label import label

SMALL = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1]}
SMALL |= {"num_encoder_blocks": 4, "decoder_hidden_size": 8, "sr_ratios": [8, 4, 2, 1]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from transformers import (
        GLPNConfig,
        GLPNForDepthEstimation,
        GLPNImageProcessor,
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
    )

    torch.manual_seed(0)
    found = {}
    for task, model, processor in (
        ("seg", SegformerForSemanticSegmentation(SegformerConfig(num_labels=5, **SMALL)), SegformerImageProcessor()),
        ("depth", GLPNForDepthEstimation(GLPNConfig(**SMALL)), GLPNImageProcessor()),
    ):
        found[task] = tmp_path_factory.mktemp(task)
        model.save_pretrained(found[task])
        processor.save_pretrained(found[task])
    return found


def test_a_segmenter_and_a_depth_model_from_their_folders(folders, tmp_path):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seg = TransformersExpert(folders["seg"], task="seg", longest=48)
    found = seg(image)
    assert (seg.classes, found.shape) == (5, (5, 32, 48))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(32, 48))
    far, near = (TransformersExpert(folders["depth"], task="depth", gives=way) for way in ("distance", "inverse"))
    torch.testing.assert_close(far(image), -near(image))
    assert far.version == near.version != seg.version
    done = label("scenes:rows=2", out=tmp_path, confidence=0.0, device="cpu", **folders)
    assert done.experts["seg"].classes == 5
    assert (done.experts["seg"].name, done.experts["seg"].version) == (seg.name, seg.version)
    store = LabelStore(tmp_path)
    (key, _) = store.tasks_of
    assert store.read(key, "seg").max() < 5
    assert (store.read(key, "depth").min(), store.read(key, "depth").max()) == (0, 1)


def test_folders_that_hold_no_expert(folders, tmp_path):
    with pytest.raises(InputError, match="expected a folder of transformers"):
        TransformersExpert(tmp_path, task="seg")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="no model that transformers loads"):
        TransformersExpert(tmp_path, task="seg")
    with pytest.raises(UnsupportedModelError, match="for 'depth'"):
        TransformersExpert(folders["seg"], task="depth")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"depths": [1, 1, 1, 10**9]}, "depths: expected at most"),
        ("config.json", {"hidden_sizes": [8, 8, 8, 2**20]}, "asks for .* numbers, and the weights beside it hold"),
        ("config.json", {"hidden_sizes": [8, 8, 8, 9]}, "no model that transformers loads"),
        ("config.json", {"num_attention_heads": [1, "x", 1, 1]}, "no model that transformers loads"),
        ("config.json", {"model_type": "none"}, "no model that transformers loads"),
        ("config.json", {"backbone": "owner/name"}, "'owner/name' would be fetched"),
        ("config.json", {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}}, "be fetched"),
        ("preprocessor_config.json", {"size": {"height": 10**6, "width": 10**6}}, "size: expected at most"),
        ("preprocessor_config.json", {"image_mean": [0.5, [0.5], 0.5]}, "failed on an image of 64 x 64"),
        ("model.safetensors", None, "truncated or not a safetensors file"),
        ("adapter_config.json", {"base_model_name_or_path": "elsewhere"}, None),
    ],
)
def test_experts_from_outside(folders, file, change, said, tmp_path):
    shutil.copytree(folders["seg"], tmp_path / "seg")
    path = tmp_path / "seg" / file
    if change is None:
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **change}))
    if said is None:
        label("scenes:rows=1", out=tmp_path / "labels", seg=tmp_path / "seg", device="cpu")
        return
    with pytest.raises(InputError, match=said):
        label("scenes:rows=1", out=tmp_path / "labels", seg=tmp_path / "seg", device="cpu")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "expected an expert for seg, depth or normal"),
        ({"seg": "files:masks"}, "classes: expected how many"),
        ({"seg": "files:nowhere", "classes": 3}, "no such folder"),
        ({"depth": "files:masks"}, "depth: expected column:NAME or a folder"),
        ({"normal": "model/"}, "normal: expected column:NAME"),
        ({"seg": "column:classes"}, "the number of classes"),
        ({"depth": "column:dept"}, "did you mean 'depth'"),
        ({"seg": "column:background", "classes": 3}, "expected numbers, got str"),
    ],
)
def test_experts_that_cannot_be(given, said, tmp_path):
    with pytest.raises(InputError, match=said):
        label("scenes:rows=2,ground=relief", out=tmp_path, strict=True, **given)


def test_the_command_says_what_there_is(tmp_path, capsys):
    command("scenes:rows=3,ground=relief", out=tmp_path / "labels", seg="column:classes", classes=11)
    said = capsys.readouterr().out
    assert "labels of 3 images, 3 of them new" in said
    assert "seg: column classes, 11 classes" in said
