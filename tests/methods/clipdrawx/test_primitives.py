"""Primitives that linear maps move: their trace, their collapse, where they start, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.generation import Moment, paint
from tether.generation.canvases import PrimitiveCanvas, StrokeCanvas
from tether.generation.canvases.primitives import base_points, patch_order, traces
from tether.methods.clipdrawx.likeness import LikenessGoal, feature_loss, text_attention
from tether.models import create


def dark(image: torch.Tensor, moment: Moment) -> torch.Tensor:
    return image.mean()


def small(**settings: object) -> PrimitiveCanvas:
    return PrimitiveCanvas(**{"patches": 2, "patch": 8, "size": 16, **settings})  # pyrefly: ignore


def test_every_stroke_can_be_followed_and_is_a_linear_map_of_its_primitive_throughout() -> None:
    canvas = small()
    found = paint(canvas, dark, steps=6, frames=3)
    steps, maps, shifts = traces(found.frames)
    assert steps == [0, 2, 4, 6]
    assert torch.equal(maps[-1], canvas.A)
    assert torch.equal(shifts[-1], canvas.b)
    assert not torch.equal(maps[0], maps[1])
    first = base_points("line") @ maps[-1][0].T + shifts[-1][0]
    torch.testing.assert_close(canvas.points()[:4], first)
    with pytest.raises(InputError, match="canvas of primitives"):
        traces(paint(StrokeCanvas(n_strokes=1, size=16), dark, steps=1).frames)


def test_strokes_start_in_the_patches_with_attention_and_faint() -> None:
    attention = torch.zeros(16, 16)
    attention[8:, 8:] = 1
    canvas = small(attention=attention, patches=1)
    assert ((canvas.b >= 8) & (canvas.b <= 16)).all()
    assert (canvas.opacity == 0.3).all()
    middle = small(patches=4, size=32, kinds={"circle": 1}).b.detach()
    assert ((middle >= 8) & (middle <= 24)).all()


def test_a_flattened_circle_is_reported_and_a_line_is_not() -> None:
    canvas = small(kinds={"circle": 1, "line": 1}, patches=1)
    assert not canvas.collapsed.any()
    with torch.no_grad():
        canvas.A[:, 1] = 0.0
    assert canvas.collapsed.tolist() == [True, False]
    assert canvas.render().isfinite().all()


def test_dropout_is_for_the_loop_alone() -> None:
    seen = list[torch.Tensor]()

    def goal(image: torch.Tensor, moment: Moment) -> torch.Tensor:
        seen.append(image.detach())
        return image.mean() * 0

    canvas = small(dropout=0.5)
    found = paint(canvas, goal, steps=3, frames=1)
    assert any(not torch.equal(one[0], canvas.render()) for one in seen)
    assert torch.equal(found.image, canvas.render())


def test_it_has_fewer_numbers_than_as_many_cubic_strokes() -> None:
    """Arithmetic: 11 numbers a stroke, 8 in black, against 19 on average."""
    ours, black = (sum(one.numel() for one in small(color=color).parameters()) for color in ("learnt", "black"))
    assert (ours, black - 3 * 18) == (11 * 18, 8 * 18)
    cubic = StrokeCanvas(n_strokes=3_000, size=16)
    assert 0.56 < 11 * 3_000 / sum(one.numel() for one in cubic.parameters()) < 0.6


def test_black_ones_stay_black() -> None:
    canvas = small(color="black")
    assert "color" not in canvas.parameters_by_role()
    paint(canvas, lambda image, moment: -image.mean(), steps=2)
    assert not canvas.color.any()


def test_a_reference_draws_and_tells_where() -> None:
    model = create("tiny", seed=1).eval()
    reference = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    goal = LikenessGoal(model, reference)
    found = paint(small(size=32), goal, steps=20)
    assert found.losses["goal"][-1] < found.losses["goal"][0]
    assert text_attention(model, reference, "a red circle", size=16).shape == (16, 16)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="size: expected a multiple of the patch of 7"):
        small(patch=7)
    with pytest.raises(InputError, match="dropout"):
        small(dropout=1.0)
    with pytest.raises(InputError, match="kind: expected one of line, circle, semicircle, got 'spiral'"):
        small(kinds={"spiral": 1})
    with pytest.raises(InputError, match="at least one primitive"):
        small(kinds={"line": 0})
    with pytest.raises(InputError, match=r"attention: expected \(16, 16\), got \(8, 8\)"):
        small(attention=torch.zeros(8, 8))
    with pytest.raises(InputError, match="at most the 4"):
        small(patches=5)
    with pytest.raises(InputError, match="expected one of line, circle, semicircle, got 'spiral'"):
        base_points("spiral")  # pyrefly: ignore
    with pytest.raises(InputError, match="multiples of 3"):
        patch_order(torch.zeros(4, 4), 3)
    with pytest.raises(InputError, match="finite"):
        patch_order(torch.full((4, 4), torch.nan), 2)
    with pytest.raises(InputError, match="same shapes"):
        feature_loss([torch.zeros(1)], [torch.zeros(2)])
    with pytest.raises(InputError, match="reference"):
        LikenessGoal(create("tiny").eval(), torch.zeros(3, 8, 8))
