"""The painting loop: any canvas moved towards any goals, step by step, resumable, with frames on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Decay, Rate, Whole, checked
from tether.generation.canvases.canvas import Canvas, drop_mask
from tether.generation.goals import Goal, Moment

Pace = Callable[[str, int, int], float]
"""Role, step and steps to what the role's rate is multiplied by."""
_SLOWED = 0.5
"""What all rates are multiplied by after a loss or gradient that was not finite."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How the canvas looked.

    Attributes:
        step: how many steps it had had.
        image: (3, h, w), or (b, 3, h, w).
        parameters: of each role, of a canvas whose parameters are kept.
    """

    step: int
    image: UInt8[Tensor, ...]
    parameters: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class PaintingProgress:
    """How far a painting has come; what a file of it holds.

    Attributes:
        step: steps taken.
        losses: of each goal, of each step, summed over looks.
        frames: on the way.
        setbacks: steps at which a loss or a gradient was not finite.
        adam: steps, first and second moments of each parameter, by name.
    """

    step: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    setbacks: list[int] = field(default_factory=list)
    adam: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Painting:
    """What came of it.

    Attributes:
        canvas: the very one that was given, moved.
        image: (3, h, w) or (b, 3, h, w) in 0 to 1, all elements drawn.
        losses: of each goal, of each step, summed over looks.
        frames: on the way, the start first and the end last.
        setbacks: steps at which the loss was not finite, so that the last good canvas was taken up again.
    """

    canvas: Canvas
    image: Float[Tensor, ...]
    losses: Mapping[str, list[float]]
    frames: tuple[Frame, ...]
    setbacks: tuple[int, ...]


@checked
def paint(
    canvas: Canvas,
    goals: Goal | Mapping[str, Goal],
    *,
    steps: Annotated[int, Ge(1), Le(10_000_000)] = 1_000,
    rates: Mapping[str, Rate] | None = None,
    pace: Pace | None = None,
    dropout: Decay | None = None,
    seed: Whole = 0,
    frames: Whole = 12,
    setbacks: Whole = 3,
    progress: PaintingProgress | None = None,
    save: Callable[[PaintingProgress], None] | None = None,
    save_every: Count = 50,
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Painting:
    """Move a canvas towards goals with Adam; each step renders, asks, follows the gradient and clamps.

    A step has random numbers of its own, drawn from the seed and its number, so a painting that is taken up again ends
    bit for bit as if it had never stopped. Where a loss or a gradient is not finite, the canvas and Adam's memory go
    back to before the last update, all rates are halved for the rest, and the step draws anew.

    Args:
        canvas: moved in place.
        goals: losses of its image, which add up; one, or several by name.
        steps: in all.
        rates: Adam's, of some roles, in place of the canvas's own.
        pace: what a role's rate is multiplied by at a step, in place of the canvas's own.
        dropout: share of the canvas's elements that a step leaves out; None takes the canvas's own.
        seed: of views, looks and dropout.
        frames: kept, besides the start.
        setbacks: at most; the next one is an error.
        progress: of a painting to go on with; the canvas must be as it was then.
        save: called with the progress every ``save_every`` steps, at the end, and before an error.
        save_every: steps.
        on_progress: called with steps done and in all.
        should_stop: asked after each step but the last; when true ``save`` is called and ``StoppedError`` raised.

    Raises:
        InputError: no goals, a role that the canvas does not have, or a loss that does not follow the canvas.
        NotFiniteError: one setback too many; the canvas is the last good one.
        StoppedError: ``should_stop`` said so.

    Source: the loop of CLIPDraw (arXiv 2106.14843); going back and leaving elements out by canvas are ours.

    Example:
        >>> import torch
        >>> from tether.generation import paint
        >>> from tether.generation.canvases import PixelCanvas
        >>> darker = lambda image, moment: image.mean()
        >>> found = paint(PixelCanvas(size=8), darker, steps=20, frames=2)
        >>> found.losses["goal"][0] > found.losses["goal"][-1], [frame.step for frame in found.frames]
        (True, [0, 10, 20])
    """
    named = dict(goals) if isinstance(goals, Mapping) else {"goal": goals}
    if not named:
        raise InputError("goals: expected at least one, got none")
    roles = {role: list(values) for role, values in canvas.parameters_by_role().items()}
    known = {**canvas.rates, **(rates or {})}
    if other := sorted(known.keys() - roles.keys()) or sorted(roles.keys() - known.keys()):
        raise InputError(f"rates: expected {', '.join(roles)}, got {', '.join(other)}")
    left_out = canvas.dropout if dropout is None else dropout
    optimizer = torch.optim.Adam([{"params": values, "role": role, "lr": 0.0} for role, values in roles.items()])
    now = PaintingProgress() if progress is None else progress
    _restore(optimizer, now.adam)
    moving = [value for values in roles.values() for value in values]
    good = _snapshot(moving, optimizer)
    if not now.frames:
        now.frames.append(_frame(canvas, 0))

    def keep_progress() -> None:
        now.adam = _memory(optimizer)
        if save is not None:
            save(now)

    while now.step < steps:
        draws = torch.Generator().manual_seed(
            hash_int(f"{now.step} {len(now.setbacks)}", seed=seed, salt="painting") >> 1
        )
        keep = (
            drop_mask(torch.rand(canvas.elements, generator=draws), left_out) if left_out and canvas.elements else None
        )
        losses, grads = _look(canvas, named, moving, keep=keep, draws=draws, step=now.step, steps=steps)
        if not _finite(losses, grads):
            now.setbacks.append(now.step)
            _take_back(moving, optimizer, good)
            if len(now.setbacks) > setbacks:
                keep_progress()
                raise NotFiniteError(
                    f"step {now.step}: expected a finite loss and gradient, got {_shown(losses)} after "
                    f"{setbacks} times back to the last good canvas, which is kept; give lower rates"
                )
            continue
        good = _snapshot(moving, optimizer)
        slower = _SLOWED ** len(now.setbacks)
        for group in optimizer.param_groups:
            factor = (pace or canvas.pace)(group["role"], now.step, steps)
            group["lr"] = known[group["role"]] * factor * slower
        for value, grad in zip(moving, grads, strict=True):
            value.grad = grad
        optimizer.step()
        optimizer.zero_grad()
        canvas.clamp_()
        for name, loss in losses.items():
            now.losses.setdefault(name, []).append(loss)
        now.step += 1
        if now.step == steps or now.step * frames // steps > (now.step - 1) * frames // steps:
            now.frames.append(_frame(canvas, now.step))
        if now.step % save_every == 0 or now.step == steps:
            keep_progress()
        if on_progress is not None:
            on_progress(now.step, steps)
        if should_stop is not None and now.step < steps and should_stop():
            keep_progress()
            raise StoppedError(f"stopped after step {now.step} of {steps}")
    with torch.no_grad():
        image = canvas.render().clamp(0, 1)
    return Painting(canvas, image, now.losses, tuple(now.frames), tuple(now.setbacks))


def _look(
    canvas: Canvas,
    goals: Mapping[str, Goal],
    moving: list[Any],
    *,
    keep: Tensor | None,
    draws: torch.Generator,
    step: int,
    steps: int,
) -> tuple[dict[str, float], list[Tensor]]:
    """Losses and gradients of a step, added up over looks; a look at a time, so that one graph is in memory."""
    losses = dict.fromkeys(goals, 0.0)
    grads = [torch.zeros_like(value) for value in moving]
    for look in canvas.looks(step, draws):
        image = canvas.render(look, keep=keep)
        batch = image if image.ndim == 4 else image[None]
        moment = Moment(step, steps, draws, look)
        found = {name: goal(batch, moment) for name, goal in goals.items()}
        for name, loss in found.items():
            if loss.ndim:
                raise InputError(f"goals: {name}: expected one number, got {tuple(loss.shape)}")
            losses[name] += float(loss.detach())
        total = torch.stack(list(found.values())).sum()
        if not total.requires_grad:
            raise InputError("goals: expected a loss that follows the canvas, got none with a gradient")
        for grad, new in zip(grads, torch.autograd.grad(total, moving, allow_unused=True), strict=True):
            if new is not None:
                grad += new
    return losses, grads


def _finite(losses: Mapping[str, float], grads: list[Tensor]) -> bool:
    return all(map(math.isfinite, losses.values())) and all(bool(grad.isfinite().all()) for grad in grads)


def _shown(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {loss:g}" for name, loss in losses.items())


@torch.no_grad()
def _frame(canvas: Canvas, step: int) -> Frame:
    image = canvas.render().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    roles = canvas.parameters_by_role() if canvas.traced else {}
    return Frame(step, image, {role: tuple(one.detach().clone() for one in each) for role, each in roles.items()})


Snapshot = tuple[list[Tensor], dict[str, Tensor]]


def _snapshot(moving: list[Any], optimizer: torch.optim.Optimizer) -> Snapshot:
    memory = {name: value.clone() for name, value in _memory(optimizer).items()}
    return [value.detach().clone() for value in moving], memory


@torch.no_grad()
def _take_back(moving: list[Any], optimizer: torch.optim.Optimizer, kept: Snapshot) -> None:
    for value, before in zip(moving, kept[0], strict=True):
        value.copy_(before)
    optimizer.state.clear()
    _restore(optimizer, kept[1])


def _memory(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What Adam remembers of the parameters, in their order."""
    every = [value for group in optimizer.param_groups for value in group["params"]]
    return {
        f"{number}.{name}": kept
        for number, value in enumerate(every)
        for name, kept in optimizer.state.get(value, {}).items()
    }


def _restore(optimizer: torch.optim.Optimizer, memory: Mapping[str, Tensor]) -> None:
    every = [value for group in optimizer.param_groups for value in group["params"]]
    for name, kept in memory.items():
        number, _, what = name.partition(".")
        value = every[int(number)]
        optimizer.state[value][what] = kept.clone() if what == "step" else kept.to(value.device, copy=True)
