"""DCLIP's teacher and student on encoders of three libraries and a composed one, and crops of what boxes name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tether
from encoders import ENCODERS
from memory_rows import squares
from tether.adaptation.finetune import tower_parameters
from tether.adaptation.recipes import Given, play
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.types import Batch, ImageSpec, Row
from tether.data.loader import Loader
from tether.data.regions import RegionColumns
from tether.data.sets.scenes import ScenesSet
from tether.losses import clip_loss, closeness_loss
from tether.methods.dclip import DclipStep, RegionTeacher, dclip_loss, fit_region_teacher, region_pairs, region_targets
from tether.methods.dclip.cross_modal import CrossModalTeacher
from tether.methods.dclip.region_crops import RegionCropper
from tether.models import create
from tether.models.compose import compose
from tether.models.embed import encode_texts
from tether.training.steps.module import StepModule

SOURCE = ScenesSet(rows=12, things=(1, 2))
COLUMNS = RegionColumns(most=2, unit="pixel")


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=[*ENCODERS, "composed"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    if request.param != "composed":
        return ENCODERS[request.param](folder)
    tether.save(create("tiny", seed=2), folder)
    towers = {side: {"name": str(folder), "train": "tuned"} for side in ("image", "text")}
    return compose(**towers, join="linear", dim=24).eval()


def loader(model) -> Loader:
    return Loader(SOURCE, batch_size=4, image_spec=model.image_spec, tokenizer=model.tokenizer, seed=0)


def test_teacher_then_student(model):
    pairs = region_pairs(model, SOURCE, columns=COLUMNS)
    assert pairs.regions.shape == (12, 3, model.dim)
    assert pairs.mask[:, 0].all()
    assert not pairs.mask[:, 2].all()  # some scenes hold one thing
    assert not pairs.regions[~pairs.mask].any()
    settings = {"steps": 12, "batch_size": 8, "learning_rate": 3e-3}
    teacher, losses = fit_region_teacher(model, pairs, generator=chance(), **settings)
    assert losses[-1] < losses[0]
    assert not any(weight.requires_grad for weight in teacher.parameters())

    targets = region_targets(model, teacher, pairs)
    torch.testing.assert_close(targets.text.cpu(), encode_texts(model, pairs.texts))
    found = DclipStep(targets)(StepModule(model), next(loader(model)), step=0, gather=LOCAL)
    found.total.backward()
    learns = [name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()]
    assert learns
    assert not set(learns) & set(tower_parameters(model, side="text"))
    assert not set(learns) & set(tower_parameters(model, side="scale"))


SETTINGS = {
    "name": "region_teacher", "boxes": "boxes", "unit": "pixel", "teacher_steps": 15, "teacher_rate": 1e-2, "steps": 30,
    "learning_rate": 3e-3,
}  # fmt: skip


def test_the_distillation_alone_moves_images_to_the_teacher():
    model, given = create("tiny", seed=1).eval(), Given("pairs", SOURCE, 12)
    recipe = RegionTeacher(**{key: value for key, value in SETTINGS.items() if key != "name"}, alpha=0.0)
    tuning = recipe.tuning(model, given)
    seen = []
    done = play(tuning, model, on_step=lambda report: seen.append(report.terms["cosine"].item()))
    assert seen[-1] < 0.5 * seen[0]
    assert all(name.startswith("visual.") for name in done.moved)


def test_the_verb_keeps_texts_and_reads_boxes():
    model = create("tiny", seed=1).eval()
    done = tether.adapt(model, SOURCE, recipe=SETTINGS | {"steps": 3}, test=ScenesSet(rows=8, seed=1), keep=squares(12))
    ids = model.tokenizer(["a red star"])
    assert torch.equal(done.model.encode_text(ids).pooled, model.encode_text(ids).pooled)
    assert done.report.frozen.text_side
    assert not done.report.frozen.image_side
    assert done.report.own
    with pytest.raises(InputError, match="key 'boxes' is required"):  # whole images alone are asked for by boxes=null
        tether.adapt(model, SOURCE, recipe="region_teacher", keep=squares(12))
    with pytest.raises(InputError, match="no column 'parts'"):
        tether.adapt(model, SOURCE, recipe=SETTINGS | {"boxes": "parts"}, keep=squares(12))
    with pytest.raises(InputError, match=r"expected corners inside the image \(xyxy, shares of the image\)"):
        tether.adapt(model, SOURCE, recipe=SETTINGS | {"unit": "share"}, keep=squares(12))
    for other, reason in ((create("tiny", towers="shared"), "share"), (create("tiny", geometry="euclidean"), "cosine")):
        with pytest.raises(UnsupportedModelError, match=f"--recipe region_teacher: .*{reason}"):
            tether.adapt(other, SOURCE, recipe=SETTINGS, keep=squares(12))


def test_the_loss_of_a_batch():
    model = create("tiny", seed=1).eval()
    pairs = region_pairs(model, SOURCE, columns=None)
    assert pairs.regions.shape == (12, 1, 64)
    teacher, _ = fit_region_teacher(model, pairs, steps=3, batch_size=4, generator=chance())
    targets, batch = region_targets(model, teacher, pairs), next(loader(model))
    found = DclipStep(targets, alpha=0.3)(StepModule(model), batch, step=0, gather=LOCAL)
    rows = [targets.place[pair] for pair in zip(batch.extra["keys"], batch.extra["texts"], strict=True)]
    image, text = model.encode_image(batch.image), F.normalize(targets.text[rows], dim=1)
    assert len(set(batch.extra["texts"])) == len(rows)
    wanted = 0.3 * clip_loss(image.unit, text, model.logit_scale)
    wanted = wanted + 0.7 * closeness_loss(image.pooled, targets.image[rows])
    torch.testing.assert_close(found.total, wanted)


def test_captions_are_no_part_of_the_control():
    torch.manual_seed(0)
    regions, words, mask = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    for looks_at, readout in itertools.product(("other", "own"), ("beside", "alone")):
        teacher = CrossModalTeacher(16, heads=2, looks_at=looks_at, readout=readout, generator=chance())
        for weight in teacher.project.parameters():
            torch.nn.init.normal_(weight)
        image = teacher(regions, mask[:, :3], words, mask)[0]
        other = teacher(regions, mask[:, :3], words.flip(0), mask)[0]
        assert torch.equal(image, other) == (looks_at == "own")


@pytest.mark.parametrize("looks_at", ["other", "own"])
def test_what_is_padding_counts_nowhere(looks_at):
    torch.manual_seed(0)
    teacher = CrossModalTeacher(16, heads=2, depth=2, looks_at=looks_at, readout="alone").double()
    regions, words = torch.randn(2, 3, 16, dtype=torch.float64), torch.randn(2, 5, 16, dtype=torch.float64)
    seen, read = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 1, 0]] * 2).bool()
    wanted = teacher(regions[:, :2], seen[:, :2], words[:, :4], read[:, :4])
    other = regions.clone()
    other[:, 2] = 7.0
    for found in (
        teacher(regions, seen, words, read),
        teacher(other, seen, words, read),
        teacher(3 * regions, seen, words, read),
    ):
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_weights_come_from_the_generator():
    one, other = (CrossModalTeacher(16, heads=2, generator=chance(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_crops_of_the_original_image():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:45] = 200
    row = Row("7", image, meta={"boxes": [[30, 10, 45, 20], [59.9, 39.9, 60, 40]]})
    spec = ImageSpec((8, 8), resize="squash")
    crops = RegionCropper(RegionColumns(most=4, unit="pixel"), spec=spec)(row)
    assert crops.shape == (3, 3, 8, 8)
    assert (crops[1] == 200).all()
    assert not crops[2].any()
    assert RegionCropper(RegionColumns(most=1, unit="pixel"), spec=spec)(row).shape[0] == 2
    for empty in ([], None, ""):
        none = Row("8", image, meta={"boxes": empty})
        assert torch.equal(RegionCropper(RegionColumns(most=4), spec=spec)(none), crops[:1])
    with pytest.raises(InputError, match="7: boxes: box 0: expected corners inside the image"):
        RegionCropper(RegionColumns(most=4, unit="share"), spec=spec)(row)
    with pytest.raises(InputError, match="9: expected an image"):
        RegionCropper(None, spec=spec)(Row("9", None))


def test_bad_input():
    model = create("tiny", seed=1).eval()
    pairs = region_pairs(model, SOURCE, columns=None)
    teacher, _ = fit_region_teacher(model, pairs, steps=1, generator=chance())
    targets, batch = region_targets(model, teacher, pairs), next(loader(model))
    with pytest.raises(InputError, match=r"no column 'parts'"):
        region_pairs(model, SOURCE, columns=RegionColumns(most=2, boxes="parts"))
    with pytest.raises(InputError, match="heads: expected a divisor of dim=64, got 7"):
        fit_region_teacher(model, pairs, steps=1, heads=7, generator=chance())
    with pytest.raises(InputError, match="rows of 64, the model has 32"):
        fit_region_teacher(create("tiny", dim=32), pairs, steps=1, generator=chance())
    rows, mask = torch.randn(2, 2, 64), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(InputError, match="token_mask: row 1 is nowhere True"):
        teacher(rows, mask, rows, mask & torch.tensor([[True], [False]]))
    with pytest.raises(InputError, match="region_feats"):
        teacher(rows, mask[:, :1], rows, mask)
    with pytest.raises(InputError, match="alpha"):
        dclip_loss(rows[:, 0], rows[:, 0], rows[:, 0], 10.0, alpha=1.5)
    step = DclipStep(targets)
    for extra, says in (
        ({"texts": ["another text"] * 4}, "was not asked for this image with the text 'another text'"),
        ({"keys": None}, r"batch.extra\['keys'\]: expected a list of the images' keys, got NoneType"),
        ({"texts": None}, r"batch.extra\['texts'\]: expected the 4 captions"),
    ):
        with pytest.raises(InputError, match=says):
            step(StepModule(model), Batch(batch.image, batch.text, batch.extra | extra), step=0, gather=LOCAL)
