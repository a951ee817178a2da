"""Strokes and blobs as pixels: gradients, boxes, order and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.generation.canvases import Camera, StrokeCanvas, render_blobs, render_strokes
from tether.generation.canvases.compositing import levels_of, over

COUNTS = torch.tensor([4, 7, 4])


def strokes(seed: int = 0) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    points = 12 * torch.rand(15, 2, generator=draws, dtype=torch.float64)
    width = 0.6 + torch.rand(3, generator=draws, dtype=torch.float64)
    return [points, width, torch.rand(3, 4, generator=draws, dtype=torch.float64)]


@pytest.mark.parametrize("reach", [None, math.inf])
def test_gradients_of_strokes_are_finite_differences(reach: float | None) -> None:
    given = [value.requires_grad_() for value in strokes()]

    def draw(points: Tensor, width: Tensor, color: Tensor) -> Tensor:
        return render_strokes(points, COUNTS, width, color, size=(9, 13), samples=5, reach=reach)

    assert torch.autograd.gradcheck(draw, given, eps=1e-6, atol=1e-5)


def test_gradients_of_blobs_are_finite_differences() -> None:
    draws = torch.Generator().manual_seed(0)
    places = (torch.rand(2, 3, 3, generator=draws, dtype=torch.float64) - 0.5).requires_grad_()
    width = (0.1 + 0.1 * torch.rand(2, 3, generator=draws, dtype=torch.float64)).requires_grad_()
    color = torch.rand(2, 3, 4, generator=draws, dtype=torch.float64).requires_grad_()

    def draw(places: Tensor, width: Tensor, color: Tensor) -> Tensor:
        return render_blobs(places, width, color, camera=Camera((2.0, 0.3, 1.0)), size=12)

    assert torch.autograd.gradcheck(draw, (places, width, color), eps=1e-7, atol=1e-4)


def test_looking_only_near_strokes_changes_nothing_that_can_be_seen() -> None:
    canvas = StrokeCanvas(n_strokes=20, size=48, generator=torch.Generator().manual_seed(1))
    given = (canvas.points, canvas.counts, canvas.width, canvas.color)
    whole = render_strokes(*given, size=(48, 48), reach=math.inf)
    assert (canvas.render() - whole).abs().max() < 2e-6
    assert 1e-6 < (render_strokes(*given, size=(48, 48), reach=8.0) - whole).abs().max() < 1 / 255


def test_the_last_stroke_lies_on_top_and_one_can_be_left_out() -> None:
    line = torch.tensor([[0.0, 4.0], [3.0, 4.0], [5.0, 4.0], [8.0, 4.0]])
    color = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1]])
    given = (line.repeat(2, 1), torch.tensor([4, 4]), torch.tensor([3.0, 3.0]), color)
    top = render_strokes(*given, size=(8, 8))[:, 4, 4]
    torch.testing.assert_close(top, torch.tensor([0.0, 1, 0]), atol=0.02, rtol=0)
    under = render_strokes(*given, size=(8, 8), keep=torch.tensor([True, False]))[:, 4, 4]
    torch.testing.assert_close(under, torch.tensor([1.0, 0, 0]), atol=0.02, rtol=0)


def test_a_stroke_outside_or_of_one_point_draws_no_nan() -> None:
    spot = torch.full((4, 2), 4.5, requires_grad=True)
    black = torch.tensor([[0.0, 0, 0, 1]])
    image = render_strokes(spot, torch.tensor([4]), torch.tensor([1.0]), black, size=(8, 8))
    image.sum().backward()
    assert image.min() < 0.2
    assert spot.grad is not None
    assert spot.grad.isfinite().all()
    away = render_strokes(spot.detach() + 100, torch.tensor([4]), torch.tensor([1.0]), black, size=(8, 8))
    assert (away == 1).all()


def test_spots_are_laid_in_order_whatever_the_levels() -> None:
    draws = torch.Generator().manual_seed(0)
    pixel = torch.randint(0, 5, (40,), generator=draws)
    cover, color = (torch.rand(*shape, generator=draws) for shape in ((40,), (40, 3)))
    ground = torch.ones(5, 3)
    order, levels = levels_of(pixel)
    found = over(cover[order], color[order], pixel=pixel[order], levels=levels, ground=ground)
    wanted = ground.clone()
    for one in range(40):
        wanted[pixel[one]] = torch.lerp(wanted[pixel[one]], color[one], cover[one])
    torch.testing.assert_close(found, wanted)


def test_bad_strokes_are_refused() -> None:
    points, width, color = strokes()
    for counts in (torch.tensor([5, 7, 3]), torch.tensor([], dtype=torch.long), torch.tensor([1, 7, 7])):
        with pytest.raises(InputError, match=r"counts: expected at least one stroke, each of 3 k \+ 1 points"):
            render_strokes(points, counts, width, color, size=(8, 8))
    with pytest.raises(InputError, match=r"color: expected \(3, 4\), got \(2, 4\)"):
        render_strokes(points, COUNTS, width, color[:2], size=(8, 8))
    with pytest.raises(InputError, match="finite"):
        render_strokes(points * math.nan, COUNTS, width, color, size=(8, 8))
    with pytest.raises(InputError, match="straight up or down"):
        render_blobs(
            torch.zeros(1, 2, 3), torch.ones(1, 2), torch.ones(1, 2, 4), camera=Camera((0.0, 2.0, 0.0)), size=8
        )
    with pytest.raises(InputError, match="two knots"):
        render_blobs(torch.zeros(1, 1, 3), torch.ones(1, 1), torch.ones(1, 1, 4), camera=Camera((1.0, 0, 0)), size=8)
