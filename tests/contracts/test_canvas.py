"""What every canvas promises."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.generation import Moment, paint
from tether.generation.canvases import CANVASES, Canvas

SETTINGS: dict[str, dict[str, int]] = {"strokes": {"n_strokes": 6}, "blobs": {"n_strokes": 6, "cameras": 2}}
SETTINGS["primitives"] = {"patches": 2, "patch": 8}
SETTINGS["implicit"] = {"width": 16, "layers": 2}
SIDE = 16


def made(name: str, *, seed: int = 0) -> Canvas:
    return CANVASES[name](size=SIDE, generator=torch.Generator().manual_seed(seed), **SETTINGS.get(name, {}))


@pytest.fixture(params=sorted(CANVASES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def red(image: Tensor, moment: Moment) -> Tensor:
    return (image - torch.tensor([1.0, 0, 0]).view(3, 1, 1)).square().mean()


def test_it_renders_an_image_with_gradient_to_every_role(name: str) -> None:
    canvas = made(name)
    image = canvas.render()
    assert image.shape == (3, SIDE, SIDE)
    assert 0 <= image.min() <= image.max() <= 1
    roles = canvas.parameters_by_role()
    assert roles.keys() == canvas.rates.keys()
    assert {id(one) for each in roles.values() for one in each} == {id(one) for one in canvas.parameters()}
    image.square().sum().backward()
    for each in roles.values():
        for one in each:
            assert one.grad is not None
            assert one.grad.isfinite().all()
            assert one.grad.any()


def test_the_start_comes_from_the_generator(name: str) -> None:
    assert torch.equal(made(name).render(), made(name).render())
    assert not torch.equal(made(name).render(), made(name, seed=1).render())


def test_clamping_mends_what_left_its_limits_and_then_does_nothing_more(name: str) -> None:
    canvas = made(name)
    canvas.clamp_()
    before = canvas.render()
    canvas.clamp_()
    assert torch.equal(canvas.render(), before)
    with torch.no_grad():
        for one in canvas.parameters():
            one.mul_(50)
    canvas.clamp_()
    image = canvas.render()
    assert 0 <= image.min() <= image.max() <= 1


def test_elements_can_be_left_out(name: str) -> None:
    canvas = made(name)
    if not canvas.elements:
        assert torch.equal(canvas.render(keep=None), canvas.render())
        return
    everything = canvas.render(keep=torch.ones(canvas.elements, dtype=torch.bool))
    assert torch.equal(everything, canvas.render())
    one = torch.arange(canvas.elements) == 0
    assert not torch.equal(canvas.render(keep=one), canvas.render())


def test_every_look_can_be_rendered(name: str) -> None:
    canvas = made(name)
    looks = canvas.looks(0, torch.Generator().manual_seed(0))
    assert looks
    assert all(0 <= look.share <= 1 and canvas.render(look).shape == (3, SIDE, SIDE) for look in looks)


def test_painting_moves_it_towards_the_goal_and_its_state_is_all_there_is(name: str) -> None:
    canvas = made(name)
    found = paint(canvas, red, steps=30, frames=2)
    assert found.losses["goal"][-1] < found.losses["goal"][0]
    assert [frame.step for frame in found.frames] == [0, 15, 30]
    assert all(bool(frame.parameters) == canvas.traced for frame in found.frames)
    other = made(name)
    other.load_state_dict(canvas.state_dict())
    assert torch.equal(other.render(), canvas.render())


def test_its_pace_is_a_factor(name: str) -> None:
    canvas = made(name)
    for role in canvas.rates:
        assert all(0 <= canvas.pace(role, step, 10) <= 1 for step in range(10))
    assert math.isclose(max(canvas.pace(role, 0, 10) for role in canvas.rates), 1.0)


def test_there_is_svg_or_it_is_said_that_there_is_none(name: str) -> None:
    canvas = made(name)
    if canvas.lines:
        assert canvas.to_svg().count("<path") == canvas.elements
    else:
        with pytest.raises(InputError, match=re.escape("no SVG of it")):
            canvas.to_svg()
