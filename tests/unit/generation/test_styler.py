"""Restyling one image: crops, regions, the network, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tether.core.errors import InputError
from tether.generation import Moment, paint
from tether.generation.edit import (
    FeatureContent,
    SemanticStyler,
    StyleNetCanvas,
    StyleWeights,
    thresholded_patch_loss,
    tv4,
)
from tether.generation.edit.style_goals import PatchGoal, RegionGoal
from tether.generation.seen import unit_images
from tether.losses import directional_loss
from tether.models import create
from tether.models.towers.clip import Clip

MASK = torch.zeros(24, 32, dtype=torch.bool)
MASK[8:16, 8:20] = True
IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
ROWS = torch.eye(64)


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval().requires_grad_(False)


def patches(model: Clip, **settings: Any) -> PatchGoal:
    given: dict[str, Any] = {
        "source": ROWS[:1],
        "object_way": ROWS[1:2],
        "ground_way": ROWS[2:3],
        "mask": MASK,
        "crops": 40,
    }
    return PatchGoal(model, **{**given, **settings})


def test_crops_lie_inside_and_are_marked_by_their_lowest_fifth(model: Clip) -> None:
    corners, marks = patches(model).draw(torch.Generator().manual_seed(0), size=(24, 32), side=10)
    assert corners.min() >= 0
    assert (corners <= torch.tensor([14, 22])).all()
    seen = [bool(MASK[top + 8 : top + 10, left : left + 10].any()) for top, left in corners.tolist()]
    assert marks.tolist() == seen
    assert 0 < marks.sum() <= 8


def test_crops_of_an_object_alone_where_the_ground_has_no_text(model: Clip) -> None:
    corners, marks = patches(model, ground_way=None).draw(torch.Generator().manual_seed(0), size=(24, 32), side=10)
    assert marks.all()
    assert all(MASK[top + 8 : top + 10, left : left + 10].any() for top, left in corners.tolist())
    upper = torch.zeros(24, 32, dtype=torch.bool)
    upper[0, 3] = True  # no crop has it at its bottom
    corners, _ = patches(model, ground_way=None, mask=upper).draw(torch.Generator(), size=(24, 32), side=10)
    assert (corners[:, 0] == 0).all()
    everywhere = torch.ones(24, 32, dtype=torch.bool)
    everywhere[0, 0] = False
    _, marks = patches(model, mask=everywhere).draw(torch.Generator(), size=(24, 32), side=10)
    assert marks.all()
    _, marks = patches(model, mask=None, ground_way=None).draw(torch.Generator(), size=(24, 32), side=24)
    assert len(marks) == 40


def test_each_crop_has_its_own_scale_and_text(model: Clip) -> None:
    image, goal = IMAGE[None], patches(model, threshold=0.0, crop=0.25, distortion=0.0, weight=1.0)
    corners, marks = goal.draw(torch.Generator().manual_seed(0), size=(24, 32), side=6)
    assert 0 < marks.sum() < len(marks)
    wanted = []
    for (top, left), mark in zip(corners.tolist(), marks.tolist(), strict=True):
        row = unit_images(model, image[..., top : top + 6, left : left + 6])
        scale, way = (0.3, ROWS[1:2]) if mark else (1.0, ROWS[2:3])
        wanted.append(scale * directional_loss(row, ROWS[:1], way))
    torch.testing.assert_close(goal(image, Moment()), torch.cat(wanted).mean(), rtol=1e-4, atol=1e-5)
    assert patches(model, threshold=3.0)(image, Moment()) == 0


def test_a_region_moves_or_stays(model: Clip) -> None:
    source = IMAGE[None]
    other = torch.where(MASK, 1 - source, source)
    keep = RegionGoal(model, source, region=~MASK)
    assert keep(other, Moment()).abs() < 1e-3  # only what is black for it has changed
    assert RegionGoal(model, source, region=MASK)(other, Moment()) > 1e-3
    plain, soft = (RegionGoal(model, source, way=ROWS[:1], source_softmax=on)(other, Moment()) for on in (False, True))
    assert 0 <= plain <= 1000
    assert plain != soft


def test_content_is_nothing_for_the_source_and_counts_details(model: Clip) -> None:
    large = torch.rand(1, 3, 64, 70, generator=torch.Generator().manual_seed(0))
    goal = FeatureContent(model, large)
    assert goal(large, Moment()) == 0
    moved = large.clone()
    moved[..., ::2, :] = large[..., 1::2, :].clone()
    moved = moved.requires_grad_()
    loss = goal(moved, Moment())
    assert loss > 1
    loss.backward()
    assert moved.grad is not None
    assert moved.grad.any()
    with pytest.raises(InputError, match="blocks: expected some of 1 to"):
        FeatureContent(model, large, blocks=(90,))


@pytest.mark.parametrize("residual", [True, False])
def test_the_network_is_a_canvas(residual: bool) -> None:
    canvas = StyleNetCanvas(IMAGE[:, :23], widths=(8, 16), residual=residual)
    assert canvas.render().shape == (3, 23, 32)
    near = (canvas.render() - IMAGE[:, :23]).abs().mean().item()
    assert (0 < near < 0.05) == residual
    assert torch.equal(StyleNetCanvas(IMAGE, seed=3).render(), StyleNetCanvas(IMAGE, seed=3).render())
    assert {id(one) for one in canvas.parameters_by_role()["network"]} == {id(one) for one in canvas.parameters()}
    assert [canvas.pace("network", step, 400) for step in (0, 99, 100, 250)] == [1, 1, 0.5, 0.25]
    found = paint(canvas, lambda image, moment: image[:, 0].mean(), steps=10, rates={"network": 1e-2}, frames=1)
    assert found.losses["goal"][-1] < found.losses["goal"][0] - 0.05
    other = StyleNetCanvas(IMAGE[:, :23], widths=(8, 16), residual=residual, seed=1)
    other.load_state_dict(canvas.state_dict())
    assert torch.equal(other.render(), canvas.render())


def test_restyling_changes_an_image_and_says_how_much(model: Clip) -> None:
    texts: dict[str, Any] = {"object_text": "a red cat", "ground_text": "a blue mat", "source_text": "a photo"}
    settings: dict[str, Any] = {"crops": 8, "crop": 0.5, "steps": 3, "rate": 0.01, "seed": 2}
    found = SemanticStyler(model, **texts, mask=MASK, **settings).fit(IMAGE, frames=1)
    assert set(found.painting.losses) == {"patches", "content", "smoothness", "object", "ground"}
    assert found.spill == pytest.approx(found.outside / found.inside)
    assert 0 < found.inside < 1
    again = SemanticStyler(model, **texts, mask=MASK, **settings).fit(IMAGE)
    assert torch.equal(found.image, again.image)
    plain = SemanticStyler(model, object_text="a red cat", **settings).fit(IMAGE)
    assert set(plain.painting.losses) == {"patches", "content", "smoothness", "object"}
    assert plain.outside == 0
    released = SemanticStyler(model, **texts, mask=MASK, ask="object", source_softmax=True, **settings).fit(IMAGE)
    assert not torch.equal(released.image, found.image)
    quiet = StyleWeights(patch=0.0, object=0.0, ground=0.0, smooth=0.0)
    still = SemanticStyler(model, object_text="a red cat", mask=MASK, weights=quiet, **settings).fit(IMAGE)
    assert still.painting.losses["patches"] == [0, 0, 0]


def test_templates_are_averaged_as_they_come(model: Clip) -> None:
    texts: dict[str, Any] = {"object_text": "a red cat", "source_text": "a photo"}
    one = SemanticStyler(model, **texts, crops=2, steps=1, templates=["{}", "a drawing of {}"])
    other = SemanticStyler(model, **texts, crops=2, steps=1)
    ways = [styler.goals(IMAGE)["object"](1 - IMAGE[None], Moment()) for styler in (one, other)]
    assert ways[0] != ways[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": torch.ones(24, 32, dtype=torch.bool)}, "not all, got one of all"),
        ({"mask": torch.zeros(24, 32, dtype=torch.bool)}, "got one of nothing"),
        ({"mask": MASK.float()}, "booleans"),
        ({"mask": MASK[:20]}, r"mask: expected the image's \(24, 32\), got \(20, 32\)"),
        ({"ground_text": "x"}, "ground_text: expected a mask"),
        ({"object_text": " "}, "object_text: expected a text with words"),
        ({"object_text": "a photo"}, "object_text: expected another text than source_text"),
        ({"ground_text": "a photo", "mask": MASK}, "ground_text: expected another text than source_text"),
        ({"crop": 1.5}, "crop: expected"),
        ({"templates": ["x"]}, "templates: expected"),
    ],
)
def test_what_is_refused(model: Clip, settings: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"object_text": "a cat", "crops": 2, "steps": 1, **settings}
    with pytest.raises(InputError, match=message):
        SemanticStyler(model, **given).fit(IMAGE)


def test_images_that_are_none_are_refused(model: Clip) -> None:
    styler = SemanticStyler(model, object_text="a cat", crops=2, steps=1)
    for image in (IMAGE * 2, IMAGE[:2], IMAGE * torch.nan):
        with pytest.raises(InputError, match="expected"):
            styler.fit(image)
    with pytest.raises(InputError, match="2 x 2"):
        tv4(torch.zeros(1, 3, 1, 5))
    with pytest.raises(InputError, match="as many marks"):
        thresholded_patch_loss(torch.ones(3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(InputError, match="length 0"):
        directional_loss(ROWS[:2], ROWS[:1], torch.zeros(1, 64))
    with pytest.raises(InputError, match="src: expected rows"):
        directional_loss(ROWS[:3], ROWS[:2], ROWS[:1])


def test_a_row_that_has_not_moved_has_a_gradient_like_others() -> None:
    rows = ROWS[[0, 3]].clone().requires_grad_()
    loss = directional_loss(rows, ROWS[:1], ROWS[1:2])
    loss.sum().backward()
    assert loss[0] == 1
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad[0], -ROWS[1])
    assert 0.1 < rows.grad[1].norm() < 10
