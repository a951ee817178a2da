"""A character model with planted bad batches: the test bench of the clippers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from tether.core.protocols import GradClipper
from tether.optim import AdamW, parameter_groups

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 64, 2, 4, 48, 32
LEARNING_RATE, BETAS, WEIGHT_DECAY, WARMUP = 3e-3, (0.9, 0.95), 0.01, 50
PLANTED = {100: 30.0, 140: 100.0, 180: 30.0, 220: 100.0, 260: 30.0}
"""Steps whose targets are random, and what their loss is multiplied by."""
BEFORE, AFTER = 20, 40
"""Steps over which the excess loss is reckoned around a planted batch."""
VALIDATION_BATCHES = 20


@dataclass(frozen=True, slots=True)
class SpikeRun:
    """One training run.

    Attributes:
        validation: cross-entropy on held-out text, in nats per character.
        excess: loss above the mean of the 20 steps before, added over the 40 steps after each planted batch.
        clipped: share of the steps in which the gradients were scaled.
    """

    validation: float
    excess: float
    clipped: float


class CharacterModel(nn.Module):
    """A causal transformer over characters."""

    def __init__(self, characters: int) -> None:
        """Args: characters: size of the alphabet."""
        super().__init__()
        self.characters = nn.Embedding(characters, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)
        for table in (self.characters, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l c"]:
        """Logits of the next character at every place."""
        hidden = self.characters(ids) + self.places.weight[: ids.shape[1]]
        return self.head(self.blocks(hidden, mask=self.mask, is_causal=True))


@functools.cache
def corpus() -> tuple[Tensor, int]:
    """The language reference that ships with Python, as character ids, and the size of its alphabet."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    text = "".join(character for character in text if character == "\n" or " " <= character <= "~")
    alphabet = sorted(set(text))
    places = {character: place for place, character in enumerate(alphabet)}
    return torch.tensor([places[character] for character in text]), len(alphabet)


def adamw(groups: list[dict[str, Any]]) -> Optimizer:
    """The optimiser of every run that asks for no other."""
    return AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=1e-8)


def train(
    clipper: GradClipper,
    *,
    seed: int,
    steps: int,
    loss_scale: float = 1.0,
    planted: Mapping[int, float] = PLANTED,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] = adamw,
    edit: Callable[[nn.Module], object] | None = None,
    disturb: Callable[[int, nn.Module], None] | None = None,
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
    ids, alphabet = corpus()
    cut = len(ids) * 9 // 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharacterModel(alphabet)
    if edit is not None:
        edit(model)
    draw = torch.Generator().manual_seed(seed)
    moved = optimizer(parameter_groups(model, weight_decay=WEIGHT_DECAY))
    rates = [group["lr"] for group in moved.param_groups]
    losses: list[float] = []
    clipped = 0
    for step in range(steps):
        inputs, targets = _batch(ids[:cut], draw)
        factor = loss_scale
        if step in planted:
            targets = torch.randint(0, alphabet, targets.shape, generator=draw)
            factor *= planted[step]
        for group, rate in zip(moved.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / WARMUP)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        moved.zero_grad()
        (loss * factor).backward()
        if disturb is not None:
            disturb(step, model)
        report = clipper.clip_(model.named_parameters(), step=step)
        if not report.skip:
            moved.step()
        losses.append(float(loss.detach()))
        clipped += int(report.scale < 1)
    held_out = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        batches = [_batch(ids[cut:], held_out) for _ in range(validation)]
        scores = [F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()) for inputs, targets in batches]
    return SpikeRun(float(torch.stack(scores).mean()), excess_loss(losses, planted=planted), clipped / steps)


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


def _batch(ids: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(0, len(ids) - CONTEXT - 1, (BATCH, 1), generator=draw)
    rows = ids[starts + torch.arange(CONTEXT + 1)]
    return rows[:, :-1], rows[:, 1:]
