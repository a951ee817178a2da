"""What the views of a run's steps cost, roughly, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tether.core.protocols import Step
from tether.models.towers.config import ModelConfig, TextConfig, VisionConfig
from tether.models.towers.cost import block_operations
from tether.training.config import RunConfig
from tether.training.parts import build_step, model_settings
from tether.training.stages import Stretch
from tether.training.steps import ComposedStep
from tether.training.steps.views import MODEL, ImageView, View

_HIDES = "masked_patches"
"""The edit with which a tower sees all positions, whatever a view's choice of patches."""


def view_costs(plan: Sequence[Stretch]) -> Iterator[str]:
    """One line for each view: its tokens for each pair, and the operations of one forward.

    Counted are the matrices of the blocks and attention, two operations for each product; a training step takes three
    forwards, one more with ``micro_batch``. Texts are counted as if all were as long as the model reads.

    Args:
        plan: stretches of a run.
    """
    for number, stretch in enumerate(plan):
        config = stretch.config
        step = build_step(config, where="settings")
        if len(plan) > 1:
            yield f"stage {number}: steps {stretch.first} to {stretch.end - 1}"
        yield from _of_step(step, config)


def _of_step(step: Step, config: RunConfig) -> Iterator[str]:
    model = None if {"load", "image"} & set(config.model) else model_settings(config)[2]
    edits = [edit if isinstance(edit, str) else edit.get("name") for edit in config.edits]
    for name, view in (step.views if isinstance(step, ComposedStep) else {}).items():
        if view.encoder != MODEL:
            yield f"view {name}: read by {view.encoder}, without gradient"
        elif model is None:
            yield f"view {name}: not counted: costs are told of models that the settings describe, not of loaded ones"
        else:
            tokens, operations = _cost(view, model, hides=_HIDES in edits)
            yield f"view {name}: {tokens} tokens, {operations / 1e6:,.1f} MFLOP a pair"


def _cost(view: View, model: ModelConfig, *, hides: bool) -> tuple[int, float]:
    if isinstance(view, ImageView):
        grid = model.vision.grid
        tokens = 1 + (grid[0] * grid[1] if view.choice is None or hides else view.choice.count(grid))
        stem = 6 * model.vision.patch**2 * model.vision.width
        return tokens, tokens * stem + _tower(model.vision, tokens)
    limit = getattr(view, "context", None)
    tokens = min(model.text.context, limit or model.text.context)
    return view.times * tokens, view.times * _tower(model.text, tokens)


def _tower(tower: VisionConfig | TextConfig, tokens: int) -> float:
    """Operations of all blocks on one sequence."""
    return sum(
        block_operations(tokens, width=tower.width, hidden=tower.hidden, feeds=3 if block.activation == "swiglu" else 2)
        for block in tower.blocks
    )
