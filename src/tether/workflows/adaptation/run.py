"""A recipe at work: fitted, or played from the newest checkpoint on."""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from tether.adaptation.recipes import FitRecipe, Given, Outcome, Recipe, TuneRecipe, play
from tether.core.errors import NotFiniteError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.models.composed.towers import TowerSide
from tether.training.loop import StepReport

OnStep = Callable[[StepReport, int], None]


@dataclass(frozen=True, slots=True)
class Done:
    """What a recipe gave, and what it cost.

    Attributes:
        outcome: model or head.
        free: tensors of the base that were free to change; None of a fit, which says nothing of it, and of a recipe
            that rebuilds the model.
        moved: numbers that were learnt.
        seconds: it took.
        cpu_seconds: of processor time.
    """

    outcome: Outcome
    free: frozenset[str] | None
    moved: int
    seconds: float
    cpu_seconds: float


def run(
    recipe: Recipe,
    base: DualEncoder,
    given: Given,
    *,
    folder: Path | None,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Done:
    """Let a recipe work on data; the base stays as it is.

    Args:
        recipe: of either kind.
        base: the model.
        given: data.
        folder: of the checkpoints of a tuning, or None.
        on_step: told each step, and how many there are.
        should_stop: asked after each step.
    """
    begun, cpu = time.perf_counter(), time.process_time()
    if isinstance(recipe, FitRecipe):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            outcome = recipe.fit(base, given)
        moved = 0 if outcome.head is None else sum(one.size for one in outcome.head.arrays().values())
        moved += 0 if outcome.model is None else _changed(base, outcome.model)
        done = Done(outcome, None, moved, time.perf_counter() - begun, time.process_time() - cpu)
    else:
        assert isinstance(recipe, TuneRecipe)
        model = copy.deepcopy(base)
        locked = [part.locked for part in _towers(model)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            tuning = recipe.tuning(model, given)
        before = time.perf_counter() - begun, time.process_time() - cpu
        played = play(
            tuning,
            model,
            folder=folder,
            seed=given.seed,
            on_step=None if on_step is None else lambda report: on_step(report, tuning.steps),
            should_stop=should_stop,
        )
        for part, was in zip(_towers(model), locked, strict=True):
            part.lock_("locked" if was else "tuned")
        cast(nn.Module, model).eval()
        outcome = played.outcome or Outcome(model=model)
        free = None if recipe.rebuilds else played.free
        done = Done(outcome, free, played.parameters, before[0] + played.seconds, before[1] + played.cpu_seconds)
    if outcome.head is not None:
        outcome.head.bind_(base if outcome.model is None else outcome.model)
    return done


@contextlib.contextmanager
def named(recipe: str) -> Iterator[None]:
    """A model that is refused inside is refused in the recipe's name."""
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"--recipe {recipe}: {error}") from error


_HIGH = 10.0
"""Times its default from which on a learning rate is what to lower first."""


@contextlib.contextmanager
def rate_named(recipe: Recipe, *, name: str) -> Iterator[None]:
    """Where a tuned model is not finite, and its learning rate is far above the default, the message says so."""
    try:
        yield
    except NotFiniteError as error:
        parameter = inspect.signature(type(recipe).__init__).parameters.get("learning_rate")
        rate = getattr(recipe, "learning_rate", None)
        if parameter is None or not isinstance(parameter.default, float) or not isinstance(rate, float | int):
            raise
        if rate < _HIGH * parameter.default:
            raise
        raise NotFiniteError(
            f"--recipe {name}: learning_rate={rate:g} is far above the default, {parameter.default:g}, and the likely "
            f"reason why the tuned model broke: {error}"
        ) from error


def _changed(base: DualEncoder, model: DualEncoder) -> int:
    """Numbers of a model that the base does not have at the same place."""
    before = cast(nn.Module, base).state_dict()
    return sum(
        value.numel()
        for name, value in cast(nn.Module, model).state_dict().items()
        if name not in before or not torch.equal(value, before[name])
    )


def _towers(model: DualEncoder) -> list[TowerSide]:
    return [part for part in cast(nn.Module, model).modules() if isinstance(part, TowerSide)]
