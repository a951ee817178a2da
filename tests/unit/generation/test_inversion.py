"""Fields that show images, banks and what they leave out, and inversion from its start to its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError
from tether.generation import (
    ClipGoal,
    ColorViews,
    FinerField,
    ImageBank,
    InversionAim,
    Moment,
    PlainView,
    fit_field,
    layer_schedule,
)
from tether.generation.canvases import PixelCanvas
from tether.generation.inversion.field_fit import perturbed
from tether.generation.inversion.implicit import begin, invert, plan_inversion
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.towers.clip import Clip

SIDE = 32


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


def images(count: int = 6) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 4, 4, generator=draws)
    return F.interpolate(small, size=SIDE).mul(255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def bank(model: Clip) -> ImageBank:
    return ImageBank.of(model, images(), [f"thing {number}" for number in range(6)], ids=list("abcdef"), exclude=["b"])


def small(**more: Any) -> FinerField:
    return FinerField(size=SIDE, **{"width": 24, "layers": 2, "omega": 10.0, "bias_bound": 1.0} | more)


def test_a_larger_bias_means_more_detail_at_the_start() -> None:
    def detail(bound: float) -> float:
        image = FinerField(size=64, width=32, layers=2, omega=10.0, bias_bound=bound).render().detach()
        return float(image.diff(dim=2).square().mean() / image.var())

    assert detail(0.1) < detail(1.0) < detail(5.0)


def test_the_same_field_at_another_size_is_the_same_image() -> None:
    field = fit_field(images()[0].float() / 255, field=small(), blur=3.0, steps=100, lr=3e-3)
    torch.testing.assert_close(F.avg_pool2d(field.at(2 * SIDE)[None], 2)[0], field.render(), atol=0.02, rtol=0)


def test_without_gradient_through_the_factor_the_values_are_the_same_and_the_gradient_another() -> None:
    coords = torch.rand(5, 2)
    free, held = small(), small(detach_factor=True)
    torch.testing.assert_close(free(coords), held(coords))
    grads = [torch.autograd.grad(one(coords).square().sum(), one.linears[0].weight)[0] for one in (free, held)]
    assert not torch.allclose(*grads)


def test_the_last_layer_moves_from_the_first_step_on() -> None:
    assert layer_schedule(5, 4)[0, -1] < 1e-6
    assert layer_schedule(5, 4, least_last=0.1)[0].tolist()[-1] == 0.1
    assert FinerField(width=4).pace("layer4", 0, 5) == 0.1
    assert {FinerField(width=4, sigma=None).pace(f"layer{n}", 0, 5) for n in range(5)} == {1.0}
    assert layer_schedule(1, 2)[0, 0] == 1


def test_a_field_comes_to_show_an_image_from_pixels_and_from_places_between_them() -> None:
    image = images()[1].float() / 255
    for points in (None, 256):
        field = small()
        before = F.mse_loss(field.render(), image).item()
        fit_field(image, field=field, steps=150, lr=3e-3, points=points)
        assert F.mse_loss(field.render(), image).item() < before / 2


def test_weights_that_were_fitted_while_moved_bear_being_moved() -> None:
    image = images()[2].float() / 255

    def rise(gamma: float) -> float:
        field = fit_field(image, field=small(), steps=300, lr=3e-3, gamma=gamma)
        weights = [linear.weight for linear in field.linears]
        loss = F.mse_loss(field.render(), image)
        with perturbed(weights, torch.autograd.grad(loss, weights), gamma=0.03):
            return F.mse_loss(field.render(), image).item()

    assert rise(0.03) < rise(0.0)


def test_weights_are_put_back_after_an_error_and_a_zero_gradient_moves_nothing() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.1, 0.7]))
    with pytest.raises(ZeroDivisionError), perturbed([weight], [torch.ones(2)], gamma=0.3):
        _ = 1 / 0
    assert torch.equal(weight, torch.tensor([0.1, 0.7]))
    with perturbed([weight], [torch.zeros(2)], gamma=0.3) as added:
        assert not added[0].any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 8, 8), "expected (3, h, w)"),
        (torch.full((3, 8, 8), 1.5), "from 0 to 1"),
        (torch.full((3, 8, 8), float("nan")), "from 0 to 1"),
        (torch.zeros(3, 8, 9), "not square"),
    ],
)
def test_what_a_field_cannot_be_fitted_to(image: Tensor, message: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_field(image, steps=1)
    assert message in str(caught.value)


def test_a_fit_that_runs_away_stops_at_the_last_good_field() -> None:
    field = small(omega=1e38)
    before = {name: value.clone() for name, value in field.state_dict().items()}
    with pytest.raises(NotFiniteError, match="step 0"):
        fit_field(images()[0].float() / 255, field=field, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in field.state_dict().items())


def test_views_are_drawn_from_the_generator_have_gradient_and_can_change_nothing() -> None:
    image = torch.rand(2, 3, 24, 24, requires_grad=True)
    first, again, other = (ColorViews(count=3)(image, draws=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (6, 3, 24, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.sum().backward()
    assert image.grad is not None
    assert image.grad.any()
    still = ColorViews(count=2, color=0.0, zoom=0.0, shear=0.0)(image, draws=torch.Generator())
    torch.testing.assert_close(still, image.repeat(2, 1, 1, 1), atol=1e-5, rtol=0)


def test_a_bank_leaves_out_what_it_is_told_to(model: Clip, bank: ImageBank) -> None:
    assert bank.ids == tuple("acdef")
    assert bank.left_out == 1
    assert bank.text_rows is not None
    torch.testing.assert_close(bank.text_rows[1], F.normalize(encode_texts(model, ["thing 2"]), dim=1)[0])
    assert bank.nearest(bank.image_rows[3], k=5)[0] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exclude": list("abcdef")}, "got none; 6 were left out"),
        ({"exclude": ["z"]}, "'z' is no id"),
        ({"ids": list("aabcde")}, "each once"),
        ({"ids": ["a"]}, "one for each of 6 images, got 1"),
        ({"texts": ["a"]}, "one for each of 6 images, got 1"),
    ],
)
def test_banks_that_are_refused(model: Clip, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ImageBank.of(model, images(), **{"ids": list("abcdef")} | settings)
    assert message in str(caught.value)


def test_parts_of_a_bank_must_fit_each_other() -> None:
    rows, pixels = torch.eye(4), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for image_rows, text_rows, ids, message in (
        (rows[:3], None, tuple("abcd"), "as many"),
        (rows, rows[:, :3], tuple("abcd"), "equally wide"),
        (rows / 0, None, tuple("abcd"), "finite"),
    ):
        with pytest.raises(InputError, match=message):
            ImageBank(pixels, image_rows, text_rows, ids)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (" ", {}, "expected a text with words"),
        ("a", {"k": 6}, "at most the 5 images of the bank, got 6"),
        (torch.ones(3), {}, "expected a finite embedding (64,), not of zeros, got (3,)"),
        (torch.zeros(64), {}, "not of zeros"),
        ("a", {"k": 0}, "k: expected a whole number of at least 1"),
        ("a", {"tau": 0.0}, "tau: expected"),
    ],
)
def test_what_an_inversion_refuses(
    model: Clip, bank: ImageBank, prompt: str | Tensor, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        invert(model, prompt, bank=bank, **{"steps": 1, "k": 2} | settings)
    assert message in str(caught.value)


def test_a_bank_of_another_width_is_refused(model: Clip) -> None:
    other = ImageBank(images(), torch.eye(6), None, tuple("abcdef"))
    with pytest.raises(InputError, match="of another model"):
        plan_inversion(model, "a", bank=other, k=2)


def test_a_start_needs_a_field(model: Clip, bank: ImageBank) -> None:
    with pytest.raises(InputError, match="expected an implicit one"):
        invert(model, "a", bank=bank, k=2, canvas=PixelCanvas(size=SIDE), steps=1)


def test_the_plan_is_the_rotated_text_and_the_mean_of_its_neighbours(model: Clip, bank: ImageBank) -> None:
    plan = plan_inversion(model, "a thing", bank=bank, k=3)
    assert plan.aligned
    assert len(plan.near) == 3
    plain = plan_inversion(model, "a thing", bank=bank, k=3, rotate=False, beta=0.0)
    assert plain.near == plan.near
    assert plain.aim.blend is None
    own = F.normalize(encode_texts(model, ["a thing"])[0], dim=0)
    torch.testing.assert_close(plain.aim.target, own)
    near = bank.image_rows[list(plan.near)].mean(0)
    assert plan.aim.target @ near > own @ near
    no_texts = ImageBank(bank.images, bank.image_rows, None, bank.ids)
    assert not plan_inversion(model, "a thing", bank=no_texts, k=3).aligned


def test_it_begins_at_the_nearest_image_of_the_bank_and_comes_nearer(model: Clip, bank: ImageBank) -> None:
    began = small()
    plan = plan_inversion(model, "thing 4", bank=bank, k=3)
    nearest = bank.images[plan.near[0]].float() / 255
    begin(began, nearest, steps=20, seed=3)
    field = small()
    found = invert(model, "thing 4", bank=bank, canvas=field, k=3, steps=25, fit_steps=20, seed=3)
    assert (found.start, found.bank, found.left_out) == (bank.ids[plan.near[0]], 5, 1)
    first = found.painting.frames[0].image.float() / 255
    torch.testing.assert_close(first, began.render().detach(), atol=1 / 255, rtol=0)
    losses = found.painting.losses["goal"]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert 0 <= found.image.min() <= found.image.max() <= 1


def test_an_images_embedding_is_a_target_as_it_is_and_a_start_of_ones_own_is_taken(
    model: Clip, bank: ImageBank
) -> None:
    row = bank.image_rows[2]
    plan = plan_inversion(model, row, bank=bank, k=2, beta=0.0)
    assert (plan.near[0], plan.aligned) == (2, False)
    torch.testing.assert_close(plan.aim.target, row)
    start = images()[5].float() / 255
    found = invert(model, row, start=start, canvas=small(), views=PlainView(), steps=30, fit_steps=60, beta=0.0)
    assert found.start is None
    first, last = (float(one) for one in (found.painting.losses["goal"][0], found.painting.losses["goal"][-1]))
    assert last < first
    goal = ClipGoal(model, [InversionAim(row)], views=PlainView())
    assert goal(found.image[None], Moment()).item() == pytest.approx(last, abs=0.05)


@pytest.mark.parametrize("rows", [(torch.zeros(3), None), (torch.ones(3), torch.ones(2)), (torch.ones(2, 2), None)])
def test_targets_that_are_refused(rows: tuple[Tensor, Tensor | None]) -> None:
    with pytest.raises(InputError, match="target, blend"):
        InversionAim(*rows)
