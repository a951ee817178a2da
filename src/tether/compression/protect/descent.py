"""What a model tells of a batch, how often it is right, and the descent that makes it wrong by a few weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.compression.protect.weights import Masks, Range
from tether.core.errors import InputError, NotFiniteError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.types import Batch

Read = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
Penalty = Literal["change", "weights"]


def read_batch(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits (b, classes) and labels (b,) of a batch.

    Of a ``Batch`` of images and texts the classes are the batch's different texts, by the encoder's own similarity; of
    a pair ``(x, y)`` the logits are ``model(x)``.
    """
    if not isinstance(batch, Batch):
        x, y = batch
        return model(x), y
    encoder = cast(DualEncoder, model)
    device = encoder.logit_scale.device
    texts, labels = batch.text.to(device).unique(dim=0, return_inverse=True)
    image, text = encoder.encode_image(batch.image.to(device)), encoder.encode_text(texts)
    geometry = geometry_of(model)
    similarity = geometry.similarity(geometry.points(image.pooled), geometry.points(text.pooled))
    return encoder.logit_scale * similarity, labels


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Any], *, read: Read = read_batch) -> float:
    """Share of rows whose greatest logit is their label's.

    Raises:
        InputError: no row.
        NotFiniteError: a logit is NaN.
    """
    right = total = 0
    for batch in batches:
        logits, labels = read(model, batch)
        if bool(logits.isnan().any()):
            raise NotFiniteError(f"{type(model).__name__}: gives NaN; expected finite logits")
        right, total = right + int((logits.argmax(1) == labels).sum()), total + len(labels)
    if not total:
        raise InputError("data: expected at least one batch with rows, got none")
    return right / total


def check_frozen(model: nn.Module) -> None:
    """See that batch norms have statistics to rest on.

    Raises:
        InputError: one has none, so that its outputs depend on the batch and a change would leak into them.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InputError(f"{name}: batch norm without running statistics cannot be frozen; expected some")


def make_wrong_(
    weights: Mapping[str, nn.Parameter],
    masks: Masks,
    *,
    model: nn.Module,
    train: Iterable[Any],
    val: Iterable[Any],
    bounds: Mapping[str, Range],
    lam: float,
    penalty: Penalty,
    lr: float,
    epochs: int,
    patience: int,
    keep: Literal["lowest", "last"],
    read: Read = read_batch,
) -> float:
    """Move the masked weights of a model in eval mode uphill on its cross entropy, and give the least accuracy.

    After each step of Adam, whose gradients are masked, they are brought back into their bounds. It stops when the
    accuracy on ``val`` has not fallen for ``patience`` epochs. See ``Obfuscator``.

    Source: ``train.py`` (``Trainer``) of Tongzhou0101/NNSplitter.
    """
    moved = {name: weights[name] for name, mask in masks.items() if bool(mask.any())}
    if not moved:
        return accuracy(model, val, read=read)
    before = {name: value.detach().clone() for name, value in moved.items()}
    # Adam's smallest number is no number in half precision, so such weights are moved as float32.
    kinds = {name: torch.promote_types(value.dtype, torch.float32) for name, value in moved.items()}
    steps = {name: nn.Parameter(value.detach().to(kinds[name], copy=True)) for name, value in moved.items()}
    optimizer = torch.optim.Adam(list(steps.values()), lr=lr)
    least, waited, best = float("inf"), 0, before
    for _ in range(epochs):
        for batch in train:
            logits, labels = read(model, batch)
            loss = -F.cross_entropy(logits.float(), labels)
            if lam:
                pulls = [
                    (value if penalty == "weights" else value - before[name])[masks[name]].abs().sum()
                    for name, value in moved.items()
                ]
                loss = loss + lam * torch.stack(pulls).sum()
            if not bool(loss.isfinite()):
                raise NotFiniteError(f"{type(model).__name__}: the loss is {loss.item()}; expected a finite one")
            grads = torch.autograd.grad(loss, list(moved.values()), allow_unused=True, materialize_grads=True)
            for name, grad in zip(moved, grads, strict=True):
                steps[name].grad = grad.to(steps[name].dtype) * masks[name]
            optimizer.step()
            with torch.no_grad():
                for name, value in moved.items():
                    steps[name].copy_(torch.where(masks[name], steps[name].clamp(*bounds[name]), steps[name]))
                    value.copy_(steps[name])
        found = accuracy(model, val, read=read)
        waited = 0 if found < least else waited + 1
        if found < least:
            least, best = found, {name: value.detach().clone() for name, value in moved.items()}
        if waited == patience:
            break
    with torch.no_grad():
        for name, value in moved.items():
            if keep == "lowest":
                value.copy_(best[name])
    return least
