"""Heads on an image tower's last map, taught by labels of each pixel: the term, its run, and its heads' rate."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import tether
from families import FAMILIES
from tether.core.errors import InputError, StoppedError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.models import create
from tether.models.features.penultimate import image_map
from tether.models.heads.dense_heads import DenseHead
from tether.models.heads.grounded import ground, grounded
from tether.models.heads.grounding_decoder import GroundingDecoder
from tether.optim import layer_decay_groups, parameter_groups
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics
from tether.training.steps import ComposedStep
from tether.training.steps.module import StepModule
from tether.workflows.label import label

pytestmark = pytest.mark.slow

HEADS = {"seg": {"name": "dense", "task": "seg", "classes": 4, "width": 8}, "far": {"name": "dense", "task": "depth"}}
HEADS["facing"] = {"name": "dense", "task": "normal", "width": 8, "norm": "none"}
TERM = {"name": "pseudo_labels", "seg": "seg", "depth": "far", "normal": "facing"}


def made(term=TERM, heads=HEADS, image=None, model=None):
    views = {"image": {"want": "map"} if image is None else image, "text": {}}
    step = ComposedStep(ClipLoss(), steps=2, seed=0, views=views, heads=heads, terms=["objective", term])
    model = create("tiny", seed=0) if model is None else model
    return step, StepModule(model, heads=step.new_heads(model))


def batch_of(known=True, **more):
    generator = torch.Generator().manual_seed(1)
    seg = torch.randint(0, 4, (3, 32, 32), generator=generator).to(torch.uint8)
    depth = torch.rand(3, 1, 32, 32, generator=generator)
    normal = torch.nn.functional.normalize(torch.randn(3, 3, 32, 32, generator=generator), dim=1)
    if not known:
        seg, depth, normal = torch.full_like(seg, 255), torch.full_like(depth, -1), torch.zeros_like(normal)
    labels = {"image_seg": seg, "image_depth": depth, "image_normal": normal, "seg_classes": 4}
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    text = create("tiny", seed=0).tokenizer(["a cat", "a dog", "a sun"])
    return Batch(pixels, text, {**labels, **more})


def test_it_adds_a_tenth_of_each_loss_and_teaches_tower_and_heads():
    step, module = made()
    loss = step(module, batch_of(), step=0, gather=LOCAL)
    parts = loss.terms
    expected = 0.1 * (parts["seg"] + parts["depth"] + parts["normal"])
    torch.testing.assert_close(parts["pseudo_labels"], expected)
    torch.testing.assert_close(loss.total, parts["objective"] + expected)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.heads.parameters())


def test_without_a_label_the_loss_and_all_gradients_are_those_of_clip():
    step, module = made()
    loss = step(module, batch_of(known=False), step=0, gather=LOCAL)
    assert loss.terms["pseudo_labels"] == 0
    loss.total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.heads.parameters())
    alone = create("tiny", seed=0)
    plain = StepModule(alone)
    ComposedStep(ClipLoss(), steps=2, seed=0)(plain, batch_of(), step=0, gather=LOCAL).total.backward()
    for (name, one), other in zip(module.model.named_parameters(), plain.model.parameters(), strict=True):
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-5), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": {}}, "expected want: map in the view 'image'"),
        ({"image": {"want": "map", "crop": 0.5}}, "no labels of seg with the view 'image'"),
        ({"image": {"want": "map", "keep_patches": 0.5}}, "want: 'map' is of all patches"),
        ({"heads": {**HEADS, "seg": {"name": "dense", "task": "seg", "classes": 5}}}, "task: seg, classes: 4"),
        ({"heads": {**HEADS, "seg": {"name": "dense", "task": "seg"}}}, "classes: expected a number"),
        (
            {"heads": {**HEADS, "far": {"name": "dense", "task": "normal"}}},
            "far: expected a dense head with task: depth",
        ),
        ({"term": {"name": "pseudo_labels"}, "heads": {}}, "expected a head for one of seg, depth, normal"),
        ({"term": {**TERM, "seg_weight": -1.0}}, "seg_weight: expected"),
    ],
)
def test_settings_that_do_not_fit(change, said):
    def run():
        step, module = made(**change)
        step(module, batch_of(), step=0, gather=LOCAL)

    with pytest.raises(InputError, match=said):
        run()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tower_with_patches_has_a_map(family, tmp_path):
    model = FAMILIES[family](tmp_path)
    image = torch.rand(2, 3, *model.image_spec.size)
    try:
        found = image_map(model, image)
    except UnsupportedModelError:
        return
    torch.testing.assert_close(found.pooled, model.encode_image(image).pooled, rtol=1e-4, atol=1e-4)
    head = DenseHead.depth(features=found.tokens.shape[2], generator=torch.Generator().manual_seed(0))
    side = int(found.tokens.shape[1] ** 0.5)
    assert head(found.tokens.transpose(1, 2).unflatten(2, (side, side)), size=(32, 32)).shape == (2, 1, 32, 32)


def test_the_last_layer_before_the_enlarging_changes_nothing():
    head = DenseHead.seg(3, features=8, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 4, 4)
    inner = torch.nn.functional.gelu(head.inner(head.norm(x.movedim(1, -1)).movedim(-1, 1)))
    late = head.outer(torch.nn.functional.interpolate(inner, size=(16, 16), mode="bilinear"))
    torch.testing.assert_close(head(x, size=(16, 16)), late)


def test_heads_learn_faster_and_their_norms_do_not_decay():
    _, module = made(heads={**HEADS, "seg": {**HEADS["seg"], "rate": 3.0}})
    for groups in (
        parameter_groups(module, weight_decay=0.1),
        layer_decay_groups(module, towers={"model.visual": {"decay": 0.5}}, weight_decay=0.1),
    ):
        found = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}
        assert found["heads.seg.inner.weight"] == (3.0, 0.1)
        assert found["heads.far.outer.weight"] == (10.0, 0.1)
        assert found["heads.far.norm.weight"] == found["heads.far.inner.bias"] == (10.0, 0.0)
        assert found["model.log_logit_scale"][0] == 1.0


def test_a_stopped_run_goes_on_bit_for_bit_and_saves_plain_clip(tmp_path):
    label(
        "scenes:rows=24,ground=relief", out=tmp_path / "labels", seg="column:classes", depth="column:depth", classes=11
    )
    heads = "{seg: {name: dense, task: seg, classes: 11, width: 8}, depth: {name: dense, task: depth, width: 8}}"
    config = load_config(
        overrides=[
            *(
                "data=scenes:rows=24,ground=relief",
                "size=tiny",
                "batch_size=8",
                "steps=4",
                "precision=fp32",
                "threads=1",
            ),
            f"contents={{crops: {{image: {{scale: [0.5, 1.0], flip: 0.5}}}}, labels: {{store: {tmp_path}/labels}}}}",
            f"step={{views: {{image: {{want: map}}, text: {{}}}}, heads: {heads}, "
            "terms: [objective, {name: pseudo_labels, seg: seg, depth: depth}]}",
            *("vocabulary=used", "micro_batch=5"),
        ]
    )
    train(config, folder=tmp_path / "whole")
    seen = []
    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "parts", should_stop=lambda: seen.append(None) or len(seen) == 2)
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "parts" / "checkpoints")[-1])
    assert {name.split(".")[0] for name in checkpoint.tensors["heads"]} == {"seg", "depth"}
    train(config, folder=tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole.keys() == tether.load(tmp_path / "whole").state_dict().keys()
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert [one["seg"] for one in records[0]] == [one["seg"] for one in records[1]]


def test_a_model_behind_a_decoder_of_regions_goes_on_with_it(tmp_path):
    model = create("tiny", seed=0)
    decoder = GroundingDecoder(model.dim, state=64, layers=1, width=16, heads=4, inner=16, dropout=0.0)
    tether.save(grounded(model, decoder).eval(), tmp_path / "grounded")
    label("scenes:rows=16,ground=relief", out=tmp_path / "labels", seg="column:classes", classes=11)
    config = load_config(
        overrides=[
            *("data=scenes:rows=16,ground=relief", f"model={{load: {tmp_path}/grounded}}"),
            *("batch_size=8", "steps=2", "precision=fp32", "threads=1"),
            f"contents={{labels: {{store: {tmp_path}/labels, tasks: [seg]}}}}",
            "step={views: {image: {want: map}, text: {}}, heads: {seg: {name: dense, task: seg, classes: 11}}, "
            "terms: [objective, {name: pseudo_labels, seg: seg}]}",
        ]
    )
    train(config, folder=tmp_path / "run")
    before, after = (tether.load(tmp_path / name) for name in ("grounded", "run"))
    image = torch.rand(2, 3, 32, 32)
    assert ground(after, image).boxes.shape == ground(before, image).boxes.shape
    assert not torch.equal(image_map(after, image).tokens, image_map(before, image).tokens)
