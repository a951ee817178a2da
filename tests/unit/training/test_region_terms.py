"""Terms on regions: through a prompter, out of patches, by concepts; and the views that they read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tether
from contents import rows
from memory_rows import MemoryRows
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.recipes import find
from tether.data.contents import BatchContents
from tether.data.loader import Loader
from tether.losses import ClipLoss, concept_distill_loss, concept_labels
from tether.models import create
from tether.models.features.dense_regions import encode_boxes
from tether.models.heads.prompted import locate, region_embeddings
from tether.training import load_config, train
from tether.training.steps import ComposedStep
from tether.training.steps.module import StepModule

PROMPTED = {
    "views": {"image": {"want": "states"}, "text": {}, "region_text": {}},
    "terms": ["objective", {"name": "region_text", "head": "prompter"}],
    "heads": {"prompter": {"name": "prompter", "saved": "kept"}},
}
POOLED = {
    "views": {"image": {"want": "dense"}, "text": {}, "region_text": {}},
    "terms": ["objective", {"name": "region_text", "equal": "each"}],
}
CONCEPTS = {
    "views": {
        "image": {"want": "dense"},
        "text": {},
        "teacher_image": {"of": "image", "encoder": "teacher"},
        "concepts_text": {"texts": ["left", "right", "above"], "prompts": ["a {}.", "{}"], "encoder": "teacher"},
    },
    "terms": ["objective", {"name": "concepts", "random": 2, "threshold": 0.3, "temperature": None}],
    "teacher": "start",
}
CUT_OUT = {
    "views": {name: one for name, one in CONCEPTS["views"].items() if name != "teacher_image"},
    "terms": ["objective", {**CONCEPTS["terms"][1], "teacher": None}],
    "teacher": "start",
}
"""The teacher looks at the boxes cut out."""


@pytest.fixture(scope="module")
def batch():
    contents = BatchContents(regions={"most": 3, "phrases": "phrases"})
    model = create("tiny")
    return next(
        Loader(
            MemoryRows(rows(8)),
            batch_size=6,
            image_spec=model.image_spec,
            tokenizer=model.tokenizer,
            seed=0,
            contents=contents,
        )
    )


def made(settings, model) -> tuple[ComposedStep, StepModule]:
    step = ComposedStep(ClipLoss(), steps=4, seed=0, **settings)
    step.see_start(model)
    return step, StepModule(model, heads=step.new_heads(model))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (PROMPTED, {"regions", "boxes", "iou"}),
        (POOLED, {"regions"}),
        (CONCEPTS, {"distill", "concepts", "sure"}),
        (CUT_OUT, {"distill", "concepts", "sure"}),
    ],
)
def test_each_has_a_finite_loss_with_gradient(settings, told, batch):
    model = create("tiny", seed=0)
    step, module = made(settings, model)
    found = step(module, batch, step=0, gather=LOCAL)
    assert told <= set(found.terms)
    assert all(value.isfinite() for value in found.terms.values())
    found.total.backward()
    assert model.visual.blocks[0].qkv.weight.grad.abs().sum() > 0
    again = step(module, batch, step=0, gather=LOCAL).total
    assert torch.equal(again, found.total)


def test_a_student_that_is_its_teacher_has_nothing_to_distil(batch):
    step, module = made(CONCEPTS, create("tiny", seed=0).eval())
    found = step(module, batch, step=0, gather=LOCAL)
    assert found.terms["distill"].item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_of_boxes_cut_out_reads_crops(batch):
    """One box that is all of the image: the crop is the image, and the teacher says what it says of that."""
    regions = batch.extra["regions"]
    all_of_it, first = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.zeros_like(regions.valid)
    first[:, 0] = True
    one = replace(regions, boxes=all_of_it * first[..., None], valid=first)
    term = {**CUT_OUT["terms"][1], "random": 0, "jitter": 0.0, "threshold": 0.0}
    model = create("tiny", seed=0).eval()
    step, module = made({**CUT_OUT, "terms": ["objective", term]}, model)
    found = step(module, replace(batch, extra={**batch.extra, "regions": one}), step=0, gather=LOCAL)
    concepts = model.encode_text(model.tokenizer(["a left.", "left", "a right.", "right", "a above.", "above"])).pooled
    pool = F.normalize(F.normalize(concepts, dim=1).unflatten(0, (3, 2)).mean(dim=1), dim=1)
    labels = concept_labels(
        model.encode_image(batch.image).pooled, pool, temperature=1 / model.logit_scale, threshold=0.0
    )
    said = encode_boxes(model, batch.image, one.boxes[:, :1])[:, 0]
    expected = concept_distill_loss(said, pool, labels, temperature=1 / model.logit_scale)
    assert found.terms["distill"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_prompter_is_saved_with_the_model(batch, tmp_path):
    step, module = made(PROMPTED, create("tiny", seed=0).eval())
    state = {f"prompter.{name}": value for name, value in module.heads["prompter"].state_dict().items()}
    tether.save(step.finished(module.model, state), tmp_path / "model")
    model = tether.load(tmp_path / "model")
    regions = batch.extra["regions"]
    rows_of = region_embeddings(model, batch.image, regions.boxes, valid=regions.valid)
    assert rows_of.shape == (6, 3, model.dim)
    assert locate(model, batch.image, rows_of).shape == (6, 3, 4)


def test_no_region_in_the_batch_adds_nothing(batch):
    regions = batch.extra["regions"]
    nothing = replace(regions, valid=torch.zeros_like(regions.valid), boxes=regions.boxes * 0)
    none = replace(batch, extra={**batch.extra, "regions": nothing})
    for settings in (PROMPTED, POOLED):
        step, module = made(settings, create("tiny", seed=0))
        found = step(module, none, step=0, gather=LOCAL)
        assert found.terms["regions"] == 0
        found.total.backward()
    step, module = made({**CUT_OUT, "terms": ["objective", {**CUT_OUT["terms"][1], "random": 0}]}, create("tiny"))
    assert step(module, none, step=0, gather=LOCAL).terms["distill"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**POOLED, "views": {**POOLED["views"], "image": {}}}, "expected want: dense"),
        ({**PROMPTED, "views": {**PROMPTED["views"], "image": {}}}, "expected want: states"),
        ({**POOLED, "views": {**POOLED["views"], "image": {"want": "dense", "crop": 0.5}}}, "no crop of its own"),
        ({**POOLED, "views": {**POOLED["views"], "image": {"want": "dense", "keep_patches": 0.5}}}, "of all patches"),
        ({**CONCEPTS, "terms": [{"name": "concepts", "regions": None}, "objective"]}, "random above 0"),
        (
            {**CONCEPTS, "views": {**CONCEPTS["views"], "concepts_text": {"texts": ["one"], "encoder": "teacher"}}},
            "at least 2 texts, got 1",
        ),
        (
            {**CONCEPTS, "views": {**CONCEPTS["views"], "concepts_text": {"texts": "nowhere.txt"}}},
            "nowhere.txt: expected a file",
        ),
        (
            {**CONCEPTS, "views": {**CONCEPTS["views"], "text": {"prompts": ["a {}"]}}},
            "prompts: expected sentences",
        ),
        (
            {"views": {"image": {"want": "dense"}, "text": {}, "concepts_text": {"texts": ["one", "two"]}}}
            | {"terms": CUT_OUT["terms"]},
            "and there is none: teacher: start",
        ),
        ({**PROMPTED, "heads": {"prompter": {"name": "prompter", "heads": 7}}}, "divisor of the width"),
    ],
)
def test_what_does_not_fit_is_told(settings, words, batch):
    def go() -> None:
        step, module = made(settings, create("tiny", seed=0))
        step(module, batch, step=0, gather=LOCAL)

    with pytest.raises(InputError, match=words):
        go()


def test_a_batch_of_plain_pairs_is_refused(batch):
    for settings in (PROMPTED, POOLED, CONCEPTS):
        step, module = made(settings, create("tiny", seed=0))
        views = {name: one for name, one in batch.extra.items() if name not in ("regions",)}
        with pytest.raises(InputError, match="expected 'regions'"):
            step(module, replace(batch, extra=views), step=0, gather=LOCAL)


def test_texts_of_a_file(tmp_path, batch):
    (tmp_path / "concepts.txt").write_text("left\n\nright\n")
    views = {**CONCEPTS["views"], "concepts_text": {"texts": str(tmp_path / "concepts.txt"), "encoder": "teacher"}}
    step, module = made({**CONCEPTS, "views": views}, create("tiny", seed=0))
    assert step(module, batch, step=0, gather=LOCAL).total.isfinite()


@pytest.mark.parametrize("concepts", [False, True])
def test_a_run_of_the_recipe(concepts, tmp_path):
    settings = ["size=tiny", "steps=2", "batch_size=6", "precision=fp32", "data.rows=12", "schedule.warmup=1"]
    config = load_config(find("regions"), overrides=[*settings, "step.heads.prompter.heads=8", "evaluate=null"])
    if concepts:
        config = config.model_copy(update={"step": {"name": "composed", **CONCEPTS}})
    train(config, folder=tmp_path / "run")
    model = tether.load(tmp_path / "run")
    if not concepts:
        boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
        assert region_embeddings(model, torch.rand(1, 3, *model.image_spec.size), boxes).shape == (1, 1, model.dim)
