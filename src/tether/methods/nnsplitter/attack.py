"""What a thief can do with the copy alone, and what a change without a search does: the two controls."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from tether.compression.protect.descent import Read, check_frozen, read_batch
from tether.compression.protect.weights import Range, layer_weights, ranges
from tether.core.errors import InputError
from tether.core.ranges import Count, PositiveRate, checked


@checked
@torch.enable_grad()
def fine_tune_attack(
    model: nn.Module,
    train: Iterable[Any],
    *,
    lr: PositiveRate = 1e-3,
    epochs: Count = 30,
    read: Read = read_batch,
) -> nn.Module:
    """A copy of an obfuscated model, all of whose weights were trained on the data that a thief has.

    Args:
        model: it is not changed.
        train: batches as ``Obfuscator.fit`` takes them, such as 1 to 10 % of the owner's; read once an epoch.
        lr: of Adam.
        epochs: over ``train``.
        read: logits and labels of a batch.

    Returns:
        The copy, in eval mode; batch norms stay at rest, as there.

    Raises:
        InputError: batch norm without running statistics, or no batch.

    Source: the fine-tuning attack of arXiv 2305.00097; learning rate and length are the caller's.
    """
    check_frozen(model)
    stolen = copy.deepcopy(model).eval().requires_grad_(True)
    optimizer, seen = torch.optim.Adam(stolen.parameters(), lr=lr), 0
    batches = list(train) if iter(train) is train else train
    for _ in range(epochs):
        for batch in batches:
            logits, labels = read(stolen, batch)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            seen += 1
    if not seen:
        raise InputError("train: expected at least one batch, got none")
    return stolen


@checked
@torch.no_grad()
def random_change(
    model: nn.Module,
    *,
    count: Count,
    seed: int,
    clamp: Literal["range", "layer"] | tuple[float, float] = "range",
    layers: Sequence[str] = ("*",),
) -> nn.Module:
    """A copy in which ``count`` weights, drawn evenly from the same layers, have values drawn evenly from their range.

    What an ``Obfuscator`` has to beat. Arguments as there.

    Raises:
        InputError: more weights than there are.
    """
    changed = copy.deepcopy(model)
    weights = layer_weights(changed, layers=layers)
    sizes = torch.tensor([value.numel() for value in weights.values()])
    if count > int(sizes.sum()):
        raise InputError(f"count: expected at most {int(sizes.sum())} weights, got {count}")
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(int(sizes.sum()), generator=generator)[:count]
    values = torch.rand(count, generator=generator)
    bounds: dict[str, Range] = ranges(weights, clamp)
    ends = sizes.cumsum(0)
    for (name, value), end, size in zip(weights.items(), ends.tolist(), sizes.tolist(), strict=True):
        inside = (places >= end - size) & (places < end)
        low, high = bounds[name]
        flat = value.detach().reshape(-1).clone()
        flat[(places[inside] - (end - size)).to(flat.device)] = (low + (high - low) * values[inside]).to(flat)
        value.copy_(flat.view(value.shape))
    return changed
