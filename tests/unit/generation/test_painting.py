"""The painting loop: taken up again, brought back from losses that are not finite, and what it refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError
from tether.core.state_file import read_state, write_state
from tether.generation import ClipGoal, DirectionAim, Moment, PaintingProgress, PlainView, RandomViews, TextAim, paint
from tether.generation.canvases import PixelCanvas, StrokeCanvas, drop_mask
from tether.generation.painting_file import FORMAT, load_painting, save_painting
from tether.methods.clipdraw import BlobCanvas3D
from tether.models import create
from tether.models.towers.clip import Clip


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


def strokes() -> StrokeCanvas:
    return StrokeCanvas(n_strokes=5, size=32, generator=torch.Generator().manual_seed(0))


def test_views_are_drawn_from_the_generator_and_have_gradient() -> None:
    image = torch.rand(2, 3, 24, 24, requires_grad=True)
    first, again, other = (RandomViews(count=3)(image, draws=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.sum().backward()
    assert image.grad is not None
    assert image.grad.any()
    white = RandomViews(count=1, fill=1.0)(torch.zeros(1, 3, 24, 24), draws=torch.Generator().manual_seed(0))
    assert white.max() == 1
    assert RandomViews(count=1, fill=None)(torch.zeros(1, 3, 24, 24), draws=torch.Generator()).max() == 0
    plain = RandomViews(distortion=0.0, scale=(1.0, 1.0))
    assert plain(image, draws=torch.Generator().manual_seed(3)).shape == (8, 3, 24, 24)


def test_a_painting_of_a_prompt_comes_nearer_and_leaves_the_model_alone(model: Clip) -> None:
    goal = ClipGoal.of_prompts(model, "a red circle", negatives=["a mess"], views=RandomViews(count=2))
    before = copy.deepcopy(model.state_dict())
    found = paint(strokes(), goal, steps=30)
    assert found.losses["goal"][-1] < found.losses["goal"][0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())


def test_a_negative_leads_away(model: Clip) -> None:
    image = torch.rand(1, 3, 32, 32)
    towards, away = (
        ClipGoal.of_prompts(model, "a", negatives=no, views=PlainView())(image, Moment()) for no in ([], ["a"])
    )
    torch.testing.assert_close(away, 0.7 * towards)


def test_one_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(model: Clip, tmp_path: Path) -> None:
    goal = ClipGoal.of_prompts(model, "a red circle", views=RandomViews(count=2))
    whole = paint(strokes(), goal, steps=12, frames=3, dropout=0.4)

    class StopError(Exception):
        pass

    canvas, file, facts = strokes(), tmp_path / "state", {"prompt": "a red circle", "steps": 12}

    def save(progress: PaintingProgress) -> None:
        save_painting(file, canvas, progress, made_of=facts)
        if progress.step == 8:
            raise StopError

    with pytest.raises(StopError):
        paint(canvas, goal, steps=12, frames=3, dropout=0.4, save=save, save_every=4)
    other = strokes()
    progress = load_painting(file, other, made_of=facts)
    assert progress.step == 8
    found = paint(other, goal, steps=12, frames=3, dropout=0.4, progress=progress)
    assert torch.equal(found.image, whole.image)
    assert found.losses == whole.losses
    assert [frame.step for frame in found.frames] == [frame.step for frame in whole.frames] == [0, 4, 8, 12]
    for one, wanted in zip(found.frames, whole.frames, strict=True):
        assert torch.equal(one.image, wanted.image)
        assert torch.equal(one.parameters["points"][0], wanted.parameters["points"][0])


def test_a_file_of_another_painting_is_refused(tmp_path: Path) -> None:
    canvas, file = strokes(), tmp_path / "state"
    save_painting(file, canvas, PaintingProgress(), made_of={"prompt": "a"})
    with pytest.raises(InputError, match="prompt was 'a', got 'b'"):
        load_painting(file, canvas, made_of={"prompt": "b"})
    with pytest.raises(InputError, match="another kind or size"):
        load_painting(file, StrokeCanvas(n_strokes=4, size=32), made_of={"prompt": "a"})
    file.write_bytes(b"no")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_painting(file, canvas, made_of={"prompt": "a"})


def test_a_file_that_was_tampered_with_is_refused(model: Clip, tmp_path: Path) -> None:
    canvas, progress, file = strokes(), PaintingProgress(), tmp_path / "state"
    paint(canvas, ClipGoal.of_prompts(model, "a", views=PlainView()), steps=1, frames=1, progress=progress)
    save_painting(file, canvas, progress, made_of={"prompt": "a"})
    settings, arrays = read_state(file, what="painting", format=FORMAT)
    assert load_painting(file, canvas, made_of={"prompt": "a"}).step == 1

    def changed(name: str, value: object) -> None:
        kept = dict(settings)
        kept.pop(name)
        write_state(file, format=FORMAT, settings=kept if value is None else {**kept, name: value}, arrays=arrays)

    for name in ("made_of", "step", "losses", "frames"):
        for value in (None, 3.5, ["a"], [[1]]):
            changed(name, value)
            with pytest.raises(InputError, match="state: damaged"):
                load_painting(file, canvas, made_of={"prompt": "a"})
    moments = {name: value for name, value in arrays.items() if name.startswith("adam/")}
    for name, value in (("adam/99.step", np.zeros(())), ("adam/x", np.zeros(())), ("adam/0.exp_avg", np.zeros(3))):
        write_state(file, format=FORMAT, settings=settings, arrays={**arrays, **moments, name: value})
        with pytest.raises(InputError, match=f"damaged: {name}"):
            load_painting(file, canvas, made_of={"prompt": "a"})


def spoilt_at(steps: set[int]) -> tuple[list[int], object]:
    seen = list[int]()

    def goal(image: Tensor, moment: Moment) -> Tensor:
        seen.append(moment.step)
        bad = moment.step in steps and seen.count(moment.step) == 1
        return image.mean() * (math.nan if bad else 1.0)

    return seen, goal


def test_a_loss_that_is_not_finite_goes_back_to_the_last_good_canvas() -> None:
    seen, goal = spoilt_at({3})
    canvas = PixelCanvas(size=8)
    found = paint(canvas, goal, steps=6, frames=0)
    assert found.setbacks == (3,)
    assert seen == [0, 1, 2, 3, 3, 4, 5]
    assert canvas.pixels.isfinite().all()
    assert len(found.losses["goal"]) == 6
    assert all(map(math.isfinite, found.losses["goal"]))


def test_too_many_end_it_with_the_step_and_the_last_good_canvas() -> None:
    def goal(image: Tensor, moment: Moment) -> Tensor:
        return image.mean() * (math.inf if moment.step >= 2 else 1.0)

    canvas, saved = PixelCanvas(size=8), list[int]()
    with pytest.raises(NotFiniteError, match=r"step 2: expected a finite loss.*2 times back"):
        paint(canvas, goal, steps=6, setbacks=2, save=lambda progress: saved.append(progress.step))
    assert canvas.pixels.isfinite().all()
    assert saved == [2]


def test_a_gradient_that_is_not_finite_counts_too() -> None:
    def goal(image: Tensor, moment: Moment) -> Tensor:
        return (image * 0).sqrt().mean() if moment.step == 1 else image.mean()

    with pytest.raises(NotFiniteError, match="step 1"):
        paint(PixelCanvas(size=8), goal, steps=3, setbacks=1)


def test_rates_and_pace_of_the_caller_count() -> None:
    canvas = strokes()
    before = canvas.color.detach().clone()
    paint(canvas, lambda image, moment: image.mean(), steps=3, rates={"color": 0.0})
    assert torch.equal(canvas.color, before)
    points = strokes()
    paint(points, lambda image, moment: image.mean(), steps=3, pace=lambda role, step, steps: float(role != "points"))
    assert torch.equal(points.points, strokes().points)


def test_sides_of_a_canvas_in_space_have_prompts_of_their_own() -> None:
    rows = torch.eye(3)
    aim = TextAim(rows)
    canvas = BlobCanvas3D(n_strokes=3, size=16)
    shares = {look.share: aim(rows[:1], Moment(look=look)).item() for look in canvas.looks(0, torch.Generator())}
    assert all((loss == -1) == (share < 1 / 3) for share, loss in shares.items())


def test_masks_of_dropout_keep_one() -> None:
    assert drop_mask(torch.zeros(3, 4), 0.5).tolist() == [[True, False, False, False]] * 3
    for p in (-0.1, 1.0):
        with pytest.raises(InputError, match="share"):
            drop_mask(torch.rand(3), p)


def test_bad_input(model: Clip) -> None:
    for prompt in ("", "  ", [], ["a", ""]):
        with pytest.raises(InputError, match="prompt: expected a text with words"):
            ClipGoal.of_prompts(model, prompt)
    with pytest.raises(InputError, match="negatives"):
        ClipGoal.of_prompts(model, "a", negatives=[" "])
    with pytest.raises(InputError, match="negative_weight"):
        ClipGoal.of_prompts(model, "a", negative_weight=-0.1)
    with pytest.raises(InputError, match="n_strokes"):
        StrokeCanvas(n_strokes=0)
    with pytest.raises(InputError, match="size"):
        StrokeCanvas(size=7)
    with pytest.raises(InputError, match="the least first"):
        StrokeCanvas(segments=(3, 1))
    with pytest.raises(InputError, match="rates: expected points, width, color, got hue"):
        paint(strokes(), lambda image, moment: image.mean(), rates={"hue": 1.0})
    with pytest.raises(InputError, match="at least one"):
        paint(strokes(), {})
    with pytest.raises(InputError, match="follows the canvas"):
        paint(strokes(), lambda image, moment: torch.zeros(()))
    with pytest.raises(InputError, match="one number"):
        paint(strokes(), lambda image, moment: image)
    with pytest.raises(InputError, match="no direction"):
        DirectionAim(torch.ones(1, 3), torch.ones(1, 3), source=torch.ones(1, 3))
    with pytest.raises(InputError, match="expected an encoder"):
        ClipGoal("clip", [])  # pyrefly: ignore
