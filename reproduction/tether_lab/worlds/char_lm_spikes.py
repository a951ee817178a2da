"""A character model with planted bad batches: the test bench of the clippers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from tether.core.protocols import GradClipper
from tether.optim.clip import GlobalNorm, NoClip
from tether_lab.lab.card import Trial
from tether_lab.lab.lab import Lab
from tether_lab.worlds import char_lm
from tether_lab.worlds.char_lm import (
    CONTEXT,
    HEADS,
    VALIDATION_BATCHES,
    WIDTH,
    ForwardReading,
    adamw,
    alphabet_size,
)

Disturb = Callable[[int, nn.Module], None]

LAYERS = 2
SCALE = 0.01
"""Multiplies the loss, so that the usual constant limit of 1 is a hundred times too high."""
LIMITS = (1.0, 0.1, 0.01, 0.001)
"""Constant limits of which the best is the baseline: the usual one, and others as far down as the loss is scaled."""
PLANTED = {100: 30.0, 140: 100.0, 180: 30.0, 220: 100.0, 260: 30.0}
"""Steps whose targets are random, and what their loss is multiplied by."""
BEFORE, AFTER = 20, 40
"""Steps over which the excess loss is reckoned around a planted batch."""


@dataclass(frozen=True, slots=True)
class SpikeRun:
    """One training run.

    Attributes:
        validation: cross-entropy on held-out text, in nats per character.
        excess: loss above the mean of the 20 steps before, added over the 40 steps after each planted batch.
        clipped: fraction of the steps in which the gradients were scaled.
    """

    validation: float
    excess: float
    clipped: float


class CharacterModel(nn.Module):
    """A causal transformer over characters."""

    def __init__(self, characters: int) -> None:
        """Args: characters: size of the alphabet."""
        super().__init__()
        self.context = CONTEXT
        self.characters = nn.Embedding(characters, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)
        for table in (self.characters, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def read(self, ids: Int[Tensor, "b l"]) -> ForwardReading:
        """Logits of the next character at every position."""
        hidden = self.characters(ids) + self.positions.weight[: ids.shape[1]]
        return ForwardReading(self.head(self.blocks(hidden, mask=self.mask, is_causal=True)), (), ())


def train(
    clipper: GradClipper,
    *,
    seed: int,
    steps: int,
    loss_scale: float = 1.0,
    planted: Mapping[int, float] = PLANTED,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] = adamw,
    edit: Callable[[nn.Module], object] | None = None,
    disturb: Disturb | None = None,
    validation: int = VALIDATION_BATCHES,
) -> SpikeRun:
    """Train one model; equal seeds see the same weights, batches and planted targets whatever else is given.

    Args:
        clipper: bounds the gradients.
        seed: of everything random.
        steps: optimiser steps; a planted batch beyond them never comes.
        loss_scale: multiplies every loss, and with it every gradient.
        planted: steps whose targets are random, and what their loss is multiplied by.
        optimizer: makes one from parameter groups; its learning rate is reached after 50 steps of warm-up.
        edit: changes the model in place before the first step.
        disturb: is given the step and the model between backward and the clipper, to spoil gradients.
        validation: held-out batches looked at.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharacterModel(alphabet_size())
    if edit is not None:
        edit(model)
    done = char_lm.train(
        model,
        seed=seed,
        steps=steps,
        loss_scale=loss_scale,
        planted=planted,
        optimizer=optimizer,
        clipper=clipper,
        disturb=disturb,
        validation=validation,
    )
    return SpikeRun(done.validation, excess_loss(done.losses, planted=planted), done.clipped)


def limit_trial(ours: type[GradClipper], lab: Lab, *, disturb: Disturb | None = None) -> Trial:
    """The best of ``LIMITS``, a clipper and none at ``SCALE`` of the loss; for the notes at its full size.

    Args:
        ours: the clipper, with its defaults.
        lab: seed and budget.
        disturb: of the clipper's own run at this scale, as for ``train``.
    """
    name = ours.__name__.lower()

    def run(clipper: GradClipper, **more: Any) -> SpikeRun:
        return train(clipper, seed=lab.seed, steps=lab.steps(300, 3), validation=lab.steps(20, 1), **more)

    constant = {limit: run(GlobalNorm(limit), loss_scale=SCALE) for limit in LIMITS}
    usual, none = constant[1.0], run(NoClip(), loss_scale=SCALE)
    found = run(ours(), loss_scale=SCALE, disturb=disturb)
    notes = {f"constant_{limit:g}": each.validation for limit, each in constant.items()} | {
        "no_clipping": none.validation,
        "excess_no_clipping": none.excess,
        "excess_constant": usual.excess,
        "fifth_of_excess_constant": usual.excess / 5,
        f"excess_{name}": found.excess,
        "clipped_constant": usual.clipped,
        f"clipped_{name}": found.clipped,
        "full_loss_constant": run(GlobalNorm(1.0)).validation,
        f"full_loss_{name}": run(ours()).validation,
    }
    return Trial(min(each.validation for each in constant.values()), found.validation, notes)


def excess_loss(losses: Sequence[float], *, planted: Iterable[int] = PLANTED) -> float:
    """What the planted batches cost afterwards; the planted steps themselves do not count."""
    total = 0.0
    places = set(planted)
    for step in sorted(places):
        before = losses[max(0, step - BEFORE) : step]
        if step < len(losses) and before:
            level = sum(before) / len(before)
            after = range(step + 1, min(step + 1 + AFTER, len(losses)))
            total += sum(max(0.0, losses[later] - level) for later in after if later not in places)
    return total
