"""The released training of the pair network, with the best epoch's weights copied instead of pointed at."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.methods.fake_thumbnail.pair_network import PairNetwork

LEARNING_RATE, WEIGHT_DECAY, BATCH, EPOCHS = 1e-3, 0.01, 128, 10  # released train.py
LARGEST_GRADIENT = 1.0
FACTOR, PATIENCE = 0.5, 1  # of the learning rate's fall


@dataclass(frozen=True, slots=True)
class PairRows:
    """Embedded pairs as the network takes them."""

    text: Float[Tensor, "n d"]
    image: Float[Tensor, "n d"]
    label: Float[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class PairHistory:
    """What training went through.

    Attributes:
        losses: of each step, before it.
        grad_norms: of each step, before the limit.
        learning_rates: of each epoch.
        validation: accuracy on the validation pairs after each epoch; empty without such pairs.
        best_epoch: whose weights were kept, counted from 1; the last one without validation pairs.
    """

    losses: tuple[float, ...]
    grad_norms: tuple[float, ...]
    learning_rates: tuple[float, ...]
    validation: tuple[float, ...]
    best_epoch: int


def train_pairs_(
    network: PairNetwork,
    rows: PairRows,
    *,
    validation: PairRows | None,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    order: Literal["given", "shuffled"],
    stop_after: int | None,
    max_grad_norm: float,
    generator: torch.Generator,
) -> PairHistory:
    """Train in place: AdamW, gradients limited in norm, a rate that halves when the last batch's loss stalls.

    Source: arXiv 2204.05533, released train.py. It keeps the best epoch by validation accuracy (the first of equal
    ones); the release keeps a live reference to the weights, so that it saves the last ones.

    Args:
        network: in any float dtype.
        rows: to learn from, of that dtype.
        validation: to choose the epoch by; None keeps the last.
        epochs: passes at most.
        batch_size: pairs in one step.
        lr: first learning rate.
        weight_decay: of all weights, biases included.
        order: of the pairs.
        stop_after: epochs without a better one after which training ends; None goes on to the end.
        max_grad_norm: limit of the gradients' joint norm.
        generator: of a shuffled order.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=FACTOR, patience=PATIENCE)
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    rates: list[float] = []
    accuracies: list[float] = []
    best, best_state = 0, copy.deepcopy(network.state_dict())
    for epoch in range(1, epochs + 1):
        network.train()
        rates.append(optimizer.param_groups[0]["lr"])
        places = torch.arange(len(rows.label))
        if order == "shuffled":
            places = torch.randperm(len(rows.label), generator=generator)
        for some in places.split(batch_size):
            optimizer.zero_grad()
            logits = network(rows.text[some], rows.image[some])
            loss = F.binary_cross_entropy_with_logits(logits, rows.label[some])
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm))
            optimizer.step()
            losses.append(loss.detach())
        schedule.step(float(losses[-1]))
        if validation is None:
            best = epoch
            continue
        accuracies.append(accuracy(network, validation))
        if best == 0 or accuracies[-1] > accuracies[best - 1]:
            best, best_state = epoch, copy.deepcopy(network.state_dict())
        if stop_after is not None and epoch - best >= stop_after:
            break
    if validation is not None:
        network.load_state_dict(best_state)
    network.eval()
    return PairHistory(
        tuple(float(loss) for loss in losses),
        tuple(float(norm) for norm in norms),
        tuple(rates),
        tuple(accuracies),
        best,
    )


@torch.no_grad()
def probabilities(
    network: PairNetwork, text: Float[Tensor, "n d"], image: Float[Tensor, "n d"], *, batch_size: int = 1024
) -> Float[Tensor, " n"]:
    """Chance that each image is unrepresentative."""
    network.eval()
    parts = zip(text.split(batch_size), image.split(batch_size), strict=True)
    return torch.cat([torch.sigmoid(network(*part)) for part in parts])


def accuracy(network: PairNetwork, rows: PairRows) -> float:
    """Share that is right at 0.5; exactly 0.5 counts as representative."""
    return float(((probabilities(network, rows.text, rows.image) > 0.5) == (rows.label > 0.5)).double().mean())
