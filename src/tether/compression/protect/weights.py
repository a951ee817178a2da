"""Which weights of a model may be changed: those near one value in a few rows of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from tether.core.component import closest
from tether.core.errors import InputError, UnsupportedModelError

Range = tuple[float, float]
Masks = dict[str, Bool[Tensor, "..."]]


def layer_weights(model: nn.Module, *, layers: Sequence[str] = ("*",)) -> dict[str, nn.Parameter]:
    """Weights of linear and convolutional layers by name, in the model's order; their rows are outputs.

    Tables of tokens and positions, norms and biases are none of them, nor are weights whose last side is 1, such as
    1 x 1 convolutions. One that two layers share stands once.

    Args:
        model: any module.
        layers: patterns of names, such as ``visual.*``.

    Raises:
        InputError: a pattern that fits nothing, weights that are exchanged or rounded, NaN or infinite.
        UnsupportedModelError: the model has no such layer.
    """
    found, seen = dict[str, nn.Parameter](), set[int]()
    for place, module in model.named_modules():
        name = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        if not isinstance(module, nn.Linear | _ConvNd | nn.MultiheadAttention) or isinstance(module, _ConvTransposeNd):
            continue
        if parametrize.is_parametrized(module, name):
            raise InputError(f"{place}: its weight is exchanged or rounded; expected a plain one: merge_ first")
        value = module._parameters.get(name)
        if value is None or value.ndim < 2 or value.shape[-1] < 2 or id(value) in seen:
            continue
        seen.add(id(value))
        found[f"{place}.{name}" if place else name] = value
    if not found:
        raise UnsupportedModelError(f"{type(model).__name__}: no linear or convolutional layer with plain weights")
    for pattern in layers:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise InputError(f"layers: no weight is named like {pattern!r}; {closest(pattern, found)}")
    found = {name: one for name, one in found.items() if any(fnmatchcase(name, pattern) for pattern in layers)}
    for name, value in found.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise InputError(f"{name}: holds weights that are NaN, infinite or whole numbers; expected finite floats")
    return found


def mean_weight(weights: Mapping[str, Tensor]) -> float:
    """The mean of all of them."""
    total = sum(float(value.detach().double().sum()) for value in weights.values())
    return total / sum(value.numel() for value in weights.values())


def near_masks(weights: Mapping[str, Tensor], filters: Sequence[Sequence[int]], *, c: float, eps: float) -> Masks:
    """True where a weight lies in one of the rows chosen of its layer and less than ``eps`` from ``c``.

    Args:
        weights: from ``layer_weights``.
        filters: rows of each layer, in the same order; none of a layer is allowed.
        c: the common value.
        eps: the distance, above 0.

    Raises:
        InputError: as many lists as layers are expected, and rows that there are.

    Source: ``utils.py`` (``modify_layer``) of Tongzhou0101/NNSplitter.
    """
    if len(filters) != len(weights):
        raise InputError(f"filters: expected rows for each of {len(weights)} layers, got {len(filters)}")
    found: Masks = {}
    for (name, value), rows in zip(weights.items(), filters, strict=True):
        if bad := [row for row in rows if not 0 <= row < len(value)]:
            raise InputError(f"filters: {name}: expected rows 0 to {len(value) - 1}, got {bad[0]}")
        mask = torch.zeros_like(value, dtype=torch.bool)
        mask[list(rows)] = (value.detach()[list(rows)] - c).abs() < eps
        found[name] = mask
    return found


def eps_of_share(weights: Mapping[str, Tensor], *, c: float, per_layer: int, share: float) -> float:
    """The distance from ``c`` within which a random choice of rows has, in the mean, this share of all weights."""
    far, due = [], []
    for value in weights.values():
        far.append((value.detach() - c).abs().double().flatten().cpu())
        due.append(torch.full_like(far[-1], min(1.0, per_layer / len(value))))
    order = torch.cat(far).argsort()
    count = torch.cat(due)[order].cumsum(0)
    last = int((count <= share * len(order)).sum())
    if not last:
        raise InputError(f"share: {share} of {len(order):,} weights is less than one; expected more")
    return float(torch.cat(far)[order[last - 1]]) * (1 + 1e-6) + 1e-12


def ranges(weights: Mapping[str, Tensor], clamp: str | Range) -> dict[str, Range]:
    """Least and greatest value that a changed weight may have, layer by layer.

    Args:
        weights: as they were.
        clamp: ``range``, that of all layers; ``layer``, each layer's own; or two numbers.
    """
    own = {name: (float(value.detach().min()), float(value.detach().max())) for name, value in weights.items()}
    if clamp == "layer":
        return own
    if clamp == "range":
        clamp = min(low for low, _ in own.values()), max(high for _, high in own.values())
    if isinstance(clamp, str) or not clamp[0] < clamp[1]:
        raise InputError(f"clamp: expected 'range', 'layer' or two numbers that rise, got {clamp!r}")
    return dict.fromkeys(own, (float(clamp[0]), float(clamp[1])))
