"""Steps that teach patches: what they learn from, what rests, and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tether
from memory_rows import boxed
from tether.adaptation.distill import NoRegionWarning, SelfDistillStep
from tether.adaptation.recipes import DenseRecipe
from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.types import Batch, Regions
from tether.losses import clip_loss
from tether.methods.farslip import LocalGlobal, LocalGlobalStep
from tether.models import create
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.steps.module import StepModule


@pytest.fixture
def model():
    return create("tiny", seed=0).eval()


def batch_of(model, *, side: int = 32, boxes=None, valid=None) -> Batch:
    image = torch.randint(0, 256, (3, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    texts = ["a red star", "a blue ring", "a green cross"]
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.5, 0.0, 1.0, 0.5]]).expand(3, 2, 4) if boxes is None else boxes
    valid = torch.tensor([[True, True], [True, False], [False, False]]) if valid is None else valid
    ids = torch.tensor([[0, 1], [0, -1], [-1, -1]])
    words = [["a star", "a ring"], ["a star", ""], ["", ""]]
    tokens = model.tokenizer([one for some in words for one in some])
    regions = Regions(boxes * valid[..., None], valid, None, words, ids)
    return Batch(image, model.tokenizer(texts), {"regions": regions, "region_text": tokens})


def loss_of(step, model, batch, *, number=0, gather=LOCAL):
    return step(StepModule(model), batch, step=number, gather=gather)


def test_self_distillation_lowers_its_loss_and_needs_no_words(model):
    step = SelfDistillStep(frozen_copy(model), max_split=2)
    batch = replace(batch_of(model, side=64), text=torch.empty(3, 0, dtype=torch.int64), extra={})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("blocks" in name)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    losses = []
    for _ in range(8):
        loss = loss_of(step, model, batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02


def test_grids_are_those_of_the_step_however_the_batch_is_spread(model):
    step, batch = SelfDistillStep(frozen_copy(model), seed=4), batch_of(model)
    whole = step._regions(batch, step=3, gather=LOCAL)[0]
    half = replace(batch, image=batch.image[:1])
    parts = [step._regions(half, step=3, gather=Gather(rank=rank, world=3))[0] for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(step._regions(batch, step=4, gather=LOCAL)[0], whole)


def test_boxes_of_the_batch(model):
    step, batch = SelfDistillStep(frozen_copy(model), where="boxes"), batch_of(model)
    found = loss_of(step, model, batch)
    assert found.terms["regions"] == 4  # an image without a box gets one
    with pytest.raises(InputError, match="expected 'regions', got nothing"):
        loss_of(step, model, replace(batch, extra={}))


def test_a_batch_without_regions_is_told(model, monkeypatch):
    step, batch = SelfDistillStep(frozen_copy(model)), batch_of(model)
    none = torch.zeros(3, 1, 4), torch.zeros(3, 1, dtype=torch.bool)
    monkeypatch.setattr(step, "_regions", lambda *_, **__: none)
    with pytest.warns(NoRegionWarning, match="without regions"):
        loss = loss_of(step, model, batch).total
    assert loss == 0
    loss.backward()


def test_local_global_is_the_sum_of_its_parts(model):
    batch = batch_of(model)
    weights = {"distill": 0.3, "captions": 2.0, "regions": 0.5}
    alone = {
        name: loss_of(LocalGlobalStep(**{**dict.fromkeys(weights, 0.0), name: 1.0}), model, batch).total
        for name in weights
    }
    whole = loss_of(LocalGlobalStep(**weights), model, batch)
    torch.testing.assert_close(whole.total, sum(weights[name] * alone[name] for name in weights))
    images, texts = model.encode_image(batch.image).unit, model.encode_text(batch.text).unit
    torch.testing.assert_close(alone["captions"], clip_loss(images, texts, model.logit_scale))
    assert whole.terms["patch_spread"] > 0


def test_objects_are_crops_with_several_positives(model):
    batch = batch_of(model)
    regions = batch.extra["regions"]
    for row in ("cls", "patches", "region"):
        step = LocalGlobalStep(distill=0.0, captions=0.0, regions=1.0, region_row=row)
        loss = loss_of(step, model, batch).total
        assert loss.isfinite()
        loss.backward()
    small = LocalGlobalStep(distill=0.0, captions=0.0, regions=1.0, least_side=30.0)
    assert loss_of(small, model, batch).total == 0
    none = replace(batch, extra={**batch.extra, "regions": replace(regions, ids=torch.full((3, 2), -1))})
    for row in ("cls", "region"):
        loss = loss_of(LocalGlobalStep(regions=1.0, distill=0.0, captions=0.0, region_row=row), model, none).total
        assert loss == 0
        loss.backward()


@pytest.mark.parametrize("teacher", ["self", "ema", "frozen"])
def test_teachers(model, teacher):
    step, batch = LocalGlobalStep(teacher=teacher, captions=0.0, steps=5, momentum=0.5), batch_of(model)
    if teacher != "self":
        with pytest.raises(InputError, match="see_start"):
            loss_of(step, model, batch)
    step.see_start(model)
    first = loss_of(step, model, batch)
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.mul_(1.05)
    moved = loss_of(step, model, batch).total
    step.follow_(step=0)
    followed = loss_of(step, model, batch).total
    assert (followed == moved) == (teacher != "ema")
    assert first.total != moved
    tensors = {name: one.clone() for name, one in step.teacher_tensors().items()}
    assert bool(tensors) == (teacher == "ema")
    step.load_teacher_tensors(tensors)
    assert loss_of(step, model, batch).total == followed


def test_settings_that_do_not_go_together():
    with pytest.raises(InputError, match="above 0"):
        LocalGlobalStep(distill=0.0, captions=0.0)
    with pytest.raises(InputError, match="smaller number first"):
        loss_of(LocalGlobalStep(scale=(0.7, 0.3)), *(lambda m: (m, batch_of(m)))(create("tiny").eval()))
    with pytest.raises(InputError, match="needs the column of the boxes"):
        DenseRecipe(where="boxes")
    with pytest.raises(InputError, match="needs the columns boxes and phrases"):
        LocalGlobal(regions=1.0)


def test_captions_and_phrases_are_needed_where_they_are_learnt(model):
    batch = batch_of(model)
    with pytest.raises(InputError, match="expected a caption of each image"):
        loss_of(LocalGlobalStep(), model, replace(batch, text=batch.text[:, :0]))
    with pytest.raises(InputError, match="expected 'regions' with phrases"):
        loss_of(LocalGlobalStep(regions=1.0), model, replace(batch, extra={}))
    with pytest.raises(InputError, match="image: expected"):
        loss_of(LocalGlobalStep(), model, replace(batch, image=batch.image[:, :2]))


def test_dense_rests_outside_the_blocks_and_goes_a_part_of_the_way(model):
    start = copy.deepcopy(model).state_dict()
    settings = {"name": "dense", "steps": 3, "batch_size": 4, "max_split": 2, "learning_rate": 1e-3}
    found = {}
    for alpha in (0.25, 1.0):
        found[alpha] = tether.adapt(model, boxed(), recipe={**settings, "alpha": alpha}).model.state_dict()
    moved = {name for name, one in found[1.0].items() if not torch.equal(one, start[name])}
    assert moved
    assert all(name.startswith("visual.blocks.") for name in moved)
    for name in moved:
        part = torch.lerp(start[name], found[1.0][name], 0.25)
        torch.testing.assert_close(found[0.25][name], part)


def test_another_teacher_must_share_the_space(model, tmp_path):
    tether.save(create("tiny", seed=1, dim=32), tmp_path / "other")
    recipe = {"name": "dense", "steps": 2, "batch_size": 4, "teacher": str(tmp_path / "other")}
    with pytest.raises(InputError, match="64 wide, it has 32"):
        tether.adapt(model, boxed(), recipe=recipe)
    tether.save(create("tiny", seed=1, image_size=16), tmp_path / "small")
    recipe["teacher"] = str(tmp_path / "small")
    assert tether.adapt(model, boxed(), recipe=recipe).model is not None


def test_the_report_asks_about_boxes(model):
    recipe = {"name": "dense", "steps": 2, "batch_size": 4, "boxes": "boxes", "phrases": "phrases"}
    report = tether.adapt(model, boxed(), recipe=recipe).report
    names = [one.name for one in report.own]
    assert "box named by the patches inside" in names
    assert "box named by its crop" in names


def test_unit_patches_are_what_is_pooled(model):
    """So that the loss of a box over the whole image is about the mean direction of all patches."""
    step, batch = SelfDistillStep(frozen_copy(model), max_split=1), batch_of(model)
    loss = loss_of(step, model, batch).total
    from tether.models.features.dense_regions import dense_patches

    mean = F.normalize(dense_patches(model, batch.image).tokens, dim=2).mean(dim=1)
    wanted = 1 - F.cosine_similarity(mean, model.encode_image(batch.image).pooled).mean()
    torch.testing.assert_close(loss, wanted, atol=1e-3, rtol=1e-3)
