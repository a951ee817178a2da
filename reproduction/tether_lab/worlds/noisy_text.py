"""Characters of real text with random targets among them: where the right answer is uncertain to begin with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tether.methods.ent import ENTLoss, error_norm
from tether.optim import parameter_groups
from tether_lab.worlds.char_lm import (
    LEARNING_RATE,
    WARMUP,
    WEIGHT_DECAY,
    CharModel,
    adamw,
    alphabet_size,
    corpus,
    draw_batch,
    validation_loss,
)

LAYERS, BATCH = 2, 16
SCORED_BATCHES = 8


@dataclass(frozen=True, slots=True)
class NoisyTextRun:
    """One training run.

    Attributes:
        validation: cross-entropy on clean held-out text, in nats per character.
        auroc_error_norm: how well the trained model's error norm tells random targets from true ones, 0.5 to 1.
        auroc_low_probability: the same for a low probability of the target.
    """

    validation: float
    auroc_error_norm: float
    auroc_low_probability: float


def train(loss: ENTLoss, *, seed: int, noise: float, steps: int) -> NoisyTextRun:
    """Train a small causal model; equal seeds see the same weights, batches and noise.

    Args:
        loss: what is minimised.
        seed: of everything random.
        noise: share of the targets replaced by characters drawn at random.
        steps: optimiser steps.
    """
    ids = corpus()[0]
    cut = len(ids) * 9 // 10
    model = CharModel(alphabet_size(), layers=LAYERS, seed=seed)
    optimizer = adamw(parameter_groups(model, weight_decay=WEIGHT_DECAY))
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP)
        inputs, targets, _ = _noisy(ids[:cut], draw, context=model.context, noise=noise)
        optimizer.zero_grad()
        loss(model(inputs), targets, step=step).loss.backward()
        optimizer.step()
    held_out = torch.Generator().manual_seed(seed + 1)
    scores, lows, wrong = [], [], []
    with torch.no_grad():
        for _ in range(min(SCORED_BATCHES, steps)):
            inputs, targets, spoilt = _noisy(ids[cut:], held_out, context=model.context, noise=noise)
            logits = model(inputs)
            scores.append(error_norm(logits, targets).flatten())
            lows.append(-logits.softmax(dim=-1).gather(-1, targets[..., None]).flatten())
            wrong.append(spoilt.flatten())
    return NoisyTextRun(
        validation_loss(model, seed=seed + 1, batch=BATCH),
        _auroc(torch.cat(scores), torch.cat(wrong)),
        _auroc(torch.cat(lows), torch.cat(wrong)),
    )


def _noisy(ids: Tensor, draw: torch.Generator, *, context: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Texts, targets with noise, and where a target is not what follows."""
    inputs, truth = draw_batch(ids, draw, batch=BATCH, context=context)
    random = torch.randint(0, alphabet_size(), truth.shape, generator=draw)
    targets = torch.where(torch.rand(truth.shape, generator=draw) < noise, random, truth)
    return inputs, targets, targets != truth


def _auroc(scores: Tensor, wrong: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong.numpy(), scores.numpy()))
