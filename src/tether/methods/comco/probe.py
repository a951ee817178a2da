"""Can a linear head read which object stands at each position from an embedding of several? (arXiv 2502.19842)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked
from tether.evaluate.checks import checked_rows

LEARNING_RATE = 1e-3  # released IOC.py and TOC scripts
SCHEDULES = {"image": (0.8, 0.2, 8, 25), "text": (0.75, 0.15, 32, 10)}
"""Of the released image probe (IOC) and text probe (TOC): the fractions of the items to train and to test on (the rest
is for validation and not used here), items in a step, and epochs."""


@dataclass(frozen=True, slots=True)
class ObjectProbe:
    """What the heads reached on items they were not trained on.

    Attributes:
        accuracy: (n,) for each position.
        majority: (n,) what naming the most frequent training object would reach.
        tested: how many items.
    """

    accuracy: Float[Tensor, " n"]
    majority: Float[Tensor, " n"]
    tested: int


@checked
def object_probe(
    features: Float[Tensor, "N d"],
    *,
    present: Int[Tensor, "N n"],
    seed: int,
    kind: Literal["image", "text"] = "image",
    epochs: Whole | None = None,
) -> ObjectProbe:
    """Train one linear head for each position and test it; the position that is read best is the one the tower favours.

    Source: arXiv 2502.19842 (IOC and TOC): Adam with a learning rate of 1e-3 and cross-entropy on unit embeddings.

    Args:
        features: embeddings of the items; they are normalised here.
        present: the class of the object at each position.
        seed: of the split, the heads' first weights and the order of the batches.
        kind: which released schedule: ``image`` (80 % for training, batches of 8, 25 epochs) or ``text`` (75 %,
            batches of 32, 10 epochs).
        epochs: instead of the schedule's.
    """
    for_training, for_test, batch_size, usual_epochs = SCHEDULES[kind]
    items = F.normalize(checked_rows(features, name="features").detach().float().cpu(), dim=1)
    if present.ndim != 2 or len(present) != len(items) or not present.shape[1] or present.is_floating_point():
        raise InputError(f"present: expected whole numbers ({len(items)}, n), got {tuple(present.shape)}")
    labels = present.long().cpu()
    if int(labels.min()) < 0:
        raise InputError(f"present: expected classes from 0, got {int(labels.min())}")
    count, tested = int(for_training * len(items)), round(for_test * len(items))
    if count < 1 or tested < 1:
        raise InputError(f"features: {len(items)} items are too few to train on some and test on others")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(items), generator=generator)
    train, test = order[:count], order[-tested:]
    classes, places = int(labels.max()) + 1, labels.shape[1]
    # One map with all heads side by side: their losses share nothing, so Adam treats each as if alone.
    heads = nn.Linear(items.shape[1], places * classes)
    bound = items.shape[1] ** -0.5
    for value in heads.parameters():
        nn.init.uniform_(value, -bound, bound, generator=generator)
    optimizer = torch.optim.Adam(heads.parameters(), lr=LEARNING_RATE)
    for _ in range(usual_epochs if epochs is None else epochs):
        for rows in train[torch.randperm(count, generator=generator)].split(batch_size):
            logits = heads(items[rows]).unflatten(1, (places, classes))
            loss = F.cross_entropy(logits.flatten(0, 1), labels[rows].flatten()) * places
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        named = heads(items[test]).unflatten(1, (places, classes)).argmax(2)
    usual = torch.stack([torch.bincount(labels[train, place]).argmax() for place in range(places)])
    return ObjectProbe(
        accuracy=(named == labels[test]).double().mean(0),
        majority=(usual == labels[test]).double().mean(0),
        tested=tested,
    )
