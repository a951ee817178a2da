"""Views that show what a trailing teacher attends to, and the terms that let them agree (A-CLIP)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from families import FAMILIES
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss, nt_xent_loss, siamese_loss
from tether.models import create
from tether.models.features.attention_maps import attention_maps
from tether.models.features.patch_attention import attentive_scores, map_scores, scores_in_view
from tether.models.features.penultimate import image_state
from tether.models.towers.patch_selection import AttentiveTokens
from tether.training.steps import ComposedStep, StepModule

GUIDED = {"patches": "attentive", "attended": "whole_image", "want": "state"}
VIEWS = {
    "image": GUIDED,
    "second_image": GUIDED,
    "whole_image": {"encoder": "teacher", "want": "state"},
    "text": {},
}
HEADS = {
    "simclr": {"name": "projection", "inputs": "state", "hidden": 32, "layers": 3, "out": 8, "last": "affine"},
    "projector": {"name": "projection", "inputs": "state", "hidden": 32, "out": 8},
    "predictor": {"name": "projection", "hidden": 32, "inputs": 8, "out": 8},
}
TERMS = [
    {"name": "objective", "weight": 0.5},
    {"name": "clip", "image": "second_image", "weight": 0.5},
    "simclr",
    {"name": "byol", "weight": 2.0},
]


def step_of(**changes: Any) -> ComposedStep:
    settings = {"views": VIEWS, "heads": HEADS, "terms": TERMS, "teacher": {"ema": {"momentum": [0.9, 1.0]}}}
    return ComposedStep(ClipLoss(), steps=10, seed=3, **{**settings, **changes})


def begun(step: ComposedStep) -> StepModule:
    model = create("tiny", seed=0)
    step.see_start(model)
    return StepModule(model, heads=step.new_heads(model))


def batch(module: StepModule, *, whole: int = 32, rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator) for _ in range(2)]
    extra: dict[str, object] = {"second_image": pixels[1]}
    extra["whole_image"] = torch.randint(0, 256, (rows, 3, whole, whole), dtype=torch.uint8, generator=generator)
    for name, box in (
        ("image", [0.1, 0.2, 0.6, 0.9]),
        ("second_image", [0.3, 0.1, 0.9, 0.7]),
        ("whole_image", [0.0, 0.0, 1.0, 1.0]),
    ):
        extra[f"{name}_box"] = torch.tensor(box).expand(rows, -1)
        extra[f"{name}_flipped"] = torch.tensor([True, False, False, True])[:rows]
    return Batch(pixels[0], module.model.tokenizer(["a heart", "a cat", "a dog", "the sun"][:rows]), extra)


@pytest.mark.parametrize("flipped", [False, True])
def test_scores_of_a_view_are_those_of_many_pixels(flipped):
    scores = torch.rand(2, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference, view = torch.tensor([[40, 80, 900, 640], [0, 0, 1000, 1000]]), torch.tensor([[140, 200, 400, 500]] * 2)
    boxes = [
        torch.cat([one[:, :2].flip(1), (one[:, :2] + one[:, 2:]).flip(1)], dim=1) / 1000 for one in (view, reference)
    ]
    maps = scores.unflatten(1, (5, 6))
    expected = map_scores(scores, view=view, reference=reference, grid=(5, 6)).unflatten(1, (5, 6))
    mirrored = torch.tensor([flipped, False])
    if flipped:  # the first view mirrored, its reference, too
        maps = torch.stack([maps[0].flip(1), maps[1]])
        expected = torch.stack([expected[0].flip(1), expected[1]])
    found = scores_in_view(
        maps.flatten(1),
        own=(5, 6),
        grid=(5, 6),
        view=boxes[0],
        reference=boxes[1],
        view_flipped=mirrored,
        reference_flipped=mirrored,
    )
    torch.testing.assert_close(found.unflatten(1, (5, 6)), expected, atol=5e-3, rtol=0)


def test_scores_of_a_view_in_float64_and_outside_the_reference():
    boxes = {"reference": torch.tensor([[0.0, 0.25, 1.0, 0.75]], dtype=torch.float64)}
    boxes |= {"view": torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)}
    boxes |= {"view_flipped": torch.tensor([False]), "reference_flipped": torch.tensor([False])}
    line = torch.tensor([[0.0, 1.0]], dtype=torch.float64)  # the score is twice the place in the reference, less 1/2
    with pytest.warns(UserWarning, match="row 0: .* lies partly outside"):
        found = scores_in_view(line.repeat(1, 2), own=(2, 2), grid=(8, 3), **boxes).view(8, 3)
    across = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).clamp(2 / 6 - 0.5, 10 / 6 - 0.5)
    assert not found[[0, 1, 6, 7]].any()
    torch.testing.assert_close(found[2:6], across.expand(4, -1), rtol=0, atol=1e-12)
    boxes["view"] = torch.tensor([[2.0, 2.0, 3.0, 3.0]], dtype=torch.float64)
    with pytest.warns(UserWarning, match="lies partly outside"):
        assert not scores_in_view(line.repeat(1, 2), own=(2, 2), grid=(8, 3), **boxes).any()
    seventh = torch.tensor([[0.1, 0.1, 0.9, 0.9]], dtype=torch.float64)
    found = scores_in_view(line, own=(1, 2), grid=(1, 7), **{**boxes, "view": seventh, "reference": seventh})
    expected = ((torch.arange(7, dtype=torch.float64) + 0.5) / 7 * 2 - 0.5).clamp(0, 1)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-12)


def test_one_look_of_the_teacher_serves_both_views_and_the_target():
    step = step_of()
    module, calls = begun(step), []
    some, teacher = batch(module), step._teachers.load("teacher")
    teacher.visual.patch.register_forward_hook(lambda *_: calls.append(None))
    seen = step.see(module, some, step=0, gather=LOCAL)
    assert len(calls) == 1
    whole = some.extra["whole_image"]
    torch.testing.assert_close(seen.views["whole_image"].features.pooled, teacher.encode_image(whole).pooled)
    scores = attentive_scores(attention_maps(teacher, whole))
    for name in ("image", "second_image"):
        about = seen.views[name].about
        found = scores_in_view(
            scores,
            own=(4, 4),
            grid=(4, 4),
            view=about["box"],
            reference=some.extra["whole_image_box"],
            view_flipped=about["flipped"],
            reference_flipped=some.extra["whole_image_flipped"],
        )
        keep = AttentiveTokens()(found, grid=(4, 4))
        assert keep.shape == (4, 12)
        rows = seen.views[name].rows
        expected = module.model.encode_image(rows, keep=keep)
        torch.testing.assert_close(seen.views[name].features.pooled, expected.pooled)
        torch.testing.assert_close(seen.views[name].features.tokens, image_state(module.model, rows, keep=keep).tokens)


@pytest.mark.parametrize("want", ["state", "pooled"])
def test_the_loss_is_the_papers(want):
    views = {name: {**view, "want": want} if name != "text" else view for name, view in VIEWS.items()}
    step = step_of(views=views)
    module = begun(step)  # of `tiny`, whose towers are as wide as its embeddings
    for at in range(2):  # the average of the projector trails it
        with torch.no_grad():
            module.heads["projector"].layers[0].weight.add_(0.1 * torch.randn(32, 64))
        step.follow_(step=at)
    some = batch(module)
    seen = step.see(module, some, step=2, gather=LOCAL).views
    read = {
        name: one.features.tokens[:, 0] if want == "state" else one.features.pooled
        for name, one in seen.items()
        if name != "text"
    }
    heads, trailing = module.heads, module.heads["projector:trailing"]
    assert not torch.equal(trailing.layers[0].weight, heads["projector"].layers[0].weight)
    both = torch.cat([read["image"], read["second_image"]])
    between = nt_xent_loss(*heads["simclr"](both).chunk(2))
    likeness = siamese_loss(heads["predictor"](heads["projector"](both)), trailing(read["whole_image"]).repeat(2, 1))
    loss = step(module, some, step=2, gather=LOCAL)
    contrast = (loss.terms["objective"] + loss.terms["clip"]) / 2
    torch.testing.assert_close(loss.total, contrast + between + 2 * likeness)
    loss.total.backward()
    assert all(one.grad is not None and one.grad.any() for one in heads.parameters() if one.ndim == 2)


def test_the_average_of_a_head_moves_once_a_step_and_is_kept():
    step = step_of(teacher={"ema": {"momentum": 0.75}})
    module = begun(step)
    before = module.heads["projector"].layers[0].weight.detach().clone()
    with torch.no_grad():
        module.heads["projector"].layers[0].weight.add_(1)
    for _ in range(2):  # however often it is asked
        step(module, batch(module), step=0, gather=LOCAL)
    step.follow_(step=0)
    other = begun(step_of(teacher={"ema": {"momentum": 0.75}}))
    other.heads.load_state_dict(module.heads.state_dict())
    for one in (module, other):
        torch.testing.assert_close(one.heads["projector:trailing"].layers[0].weight, before + 0.25)


def test_a_smaller_look_costs_less_and_follows_the_average():
    step = step_of(teacher={"ema": {"momentum": 0.5, "image_size": 16}})
    module = begun(step)
    some = batch(module, whole=16)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    step.follow_(step=0)
    seen = step.see(module, some, step=1, gather=LOCAL).views
    average = step._teachers.moving.moving.model
    expected = average.resized(image_size=16).encode_image(some.extra["whole_image"]).pooled
    torch.testing.assert_close(seen["whole_image"].features.pooled, expected)
    assert step(module, some, step=1, gather=LOCAL).total.isfinite()


SMALLER = ("open_clip ViT", "CoCa", "MetaCLIP 2", "ViT and BERT")


@pytest.mark.parametrize("name", [*SMALLER, "EVA02", "SigLIP 2", "transformers' SigLIP"])
def test_towers_of_other_libraries_look_and_leave_out(name, tmp_path):
    model = FAMILIES[name](tmp_path)
    size = 16 if name in SMALLER else 32
    views = {
        "image": {"patches": {"name": "attentive", "keep": 0.3, "pool": 1}, "attended": "whole_image"},
        "second_image": {"keep_patches": 0.5},
        "whole_image": {"encoder": "teacher"},
        "text": {},
    }
    terms = ["objective", {"name": "clip", "image": "second_image"}]
    teacher = {"ema": {"momentum": 0.5, "image_size": size if name in SMALLER else None}}
    step = step_of(views=views, terms=terms, heads={}, teacher=teacher)
    step.see_start(model)
    module = StepModule(model, heads=step.new_heads(model))
    some = batch(module, whole=size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    step.follow_(step=0)
    seen = step.see(module, some, step=1, gather=LOCAL).views
    average = step._teachers.moving.moving.model
    average = average.resized(image_size=size) if name in SMALLER else average
    expected = average.encode_image(seen["whole_image"].rows).pooled
    torch.testing.assert_close(seen["whole_image"].features.pooled, expected)
    for view in ("image", "second_image"):
        assert not torch.allclose(seen[view].features.pooled, model.encode_image(seen[view].rows).pooled, atol=1e-6)
    step(module, some, step=1, gather=LOCAL).total.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_convolutions_cannot_leave_patches_out(tmp_path):
    step = step_of(views={"image": {"keep_patches": 0.5}, "text": {}}, terms=["objective"], heads={}, teacher=None)
    module = StepModule(FAMILIES["ConvNeXt"](tmp_path))
    with pytest.raises(
        InputError, match=r"keep_patches: the tower is of class ConvNeXt: its convolutions .*keep_patches=1"
    ):
        step(module, batch(module), step=0, gather=LOCAL)


def test_windows_of_a_view_need_no_boxes_from_the_loader():
    views = {
        "image": {"crop": 0.5, "patches": "attentive", "attended": "whole"},
        "whole": {"source": "image", "encoder": "teacher"},
        "text": {},
    }
    step = step_of(views=views, terms=["objective"], heads={})
    module = begun(step)
    about = step.see(module, batch(module), step=0, gather=LOCAL).views["image"].about
    assert ((about["box"][:, 2:] - about["box"][:, :2]) < 0.9).all()


@pytest.mark.parametrize("rows", [1, 4])
def test_any_number_of_rows(rows):
    step = step_of()
    module = begun(step)
    assert step(module, batch(module, rows=rows), step=0, gather=LOCAL).total.isfinite()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": "start"}, "term byol: needs a teacher that trails the model"),
        ({"views": {**VIEWS, "image": {"attended": "whole_image"}}}, "attended: expected patches: attentive"),
        ({"views": {**VIEWS, "image": {**GUIDED, "attended": "whol_image"}}}, "did you mean 'whole_image'"),
        ({"views": {**VIEWS, "image": {**GUIDED, "attended": "second_image"}}}, "no view of the teacher is 'second_im"),
        ({"views": {**VIEWS, "image": {**GUIDED, "patches": {"name": "attentive", "keep": 1.5}}}}, "keep: expected"),
        ({"views": {**VIEWS, "image": {**GUIDED, "patches": {"name": "attentive", "keep": 0}}}}, "keep: expected"),
        ({"heads": {**HEADS, "projector": {"name": "projection", "hidden": 0}}}, "hidden: expected"),
        ({"terms": [*TERMS, {"name": "byol", "projector": "projectr"}]}, "did you mean 'projector'"),
        ({"terms": [*TERMS, {"name": "byol", "images": []}]}, "images"),
    ],
)
def test_settings_that_cannot_be(changes, says):
    with pytest.raises(InputError, match=says):
        begun(step_of(**changes))


def test_an_odd_grid_and_a_size_beside_the_patches_are_refused():
    step = step_of()
    module = begun(step)
    module.model = create("tiny", seed=0, image_size=40)  # 5 x 5 patches
    with pytest.raises(InputError, match="multiples of 2, got 5 x 5"):
        step(module, batch(module), step=0, gather=LOCAL)
    with pytest.raises(InputError, match=r"image_size: expected multiples of 8 \(the patch\), got \(20, 20\)"):
        begun(step_of(teacher={"ema": {"image_size": 20}}))
    module.model = create("tiny", seed=0)
    with pytest.raises(InputError, match="takes images of 32 x 32"):
        step(module, batch(module, whole=16), step=0, gather=LOCAL)


@pytest.mark.parametrize(
    ("name", "says"),
    [("second_image", "a view of the 3 images, got 4"), ("whole_image", "a view of the 4 images, got 3")],
)
def test_views_of_unequal_length_are_refused(name, says):
    step = step_of()
    module = begun(step)
    some = batch(module)
    for key in (name, f"{name}_box", f"{name}_flipped"):
        some.extra[key] = some.extra[key][:3]
    with pytest.raises(InputError, match=says):
        step(module, some, step=0, gather=LOCAL)
