"""Where the weights of a block lie: queries, keys and values are often rows of one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.models.refusals import refusal

PARTS = ("q", "k", "v", "o", "out_gate", "gate", "up", "down")
"""Linear maps of a block: queries, keys, values, the output of attention and its gate (own towers with ``out_gate``),
and of the feed-forward net the gate (SwiGLU), the way up and the way down."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Rows of a parameter.

    Attributes:
        module: that holds it.
        name: of the parameter in it.
        start: first row.
        stop: the row after the last.
    """

    module: nn.Module
    name: str
    start: int
    stop: int

    def read(self) -> Float[Tensor, "rows ..."]:
        """The rows as the model computes with them: a view, unless something is exchanged there."""
        return getattr(self.module, self.name)[self.start : self.stop]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Of one linear map or norm.

    Attributes:
        weight: (out, in) rows of a linear map, or (w,) of a norm.
        bias: (out,) or (w,); or None.
    """

    weight: Held
    bias: Held | None


def held(module: nn.Module, name: str, start: int = 0, stop: int | None = None) -> Held | None:
    """Rows of a module's parameter, all of them by default; None where it has none."""
    value: Tensor | None = getattr(module, name, None)
    return None if value is None else Held(module, name, start, len(value) if stop is None else stop)


def fused(
    module: nn.Module,
    sizes: Mapping[str, int],
    *,
    weight: str = "weight",
    bias: Held | None = None,
) -> dict[str, Weights]:
    """Maps that lie under one another in one matrix.

    Args:
        module: that holds it.
        sizes: rows of each map by name, in order.
        weight: the matrix's name in it.
        bias: the whole bias.
    """
    found, start = dict[str, Weights](), 0
    for name, size in sizes.items():
        rows = Held(module, weight, start, start + size)
        offset = None if bias is None else Held(bias.module, bias.name, start, start + size)
        found[name], start = Weights(rows, offset), start + size
    return found


def fused_linear(layer: Any, sizes: Mapping[str, int]) -> dict[str, Weights]:
    """Maps that one linear layer holds.

    Raises:
        UnsupportedModelError: it is no linear layer, such as one that an adapter stands in for.
    """
    if not isinstance(layer, nn.Linear):
        raise refusal("linear", f"{', '.join(sizes)} are of class {type(layer).__name__}")
    return fused(layer, sizes, bias=held(layer, "bias"))


def linear_layers(layers: Mapping[str, Any]) -> dict[str, Weights]:
    """Maps that each have a linear layer of their own.

    Raises:
        UnsupportedModelError: one has none.
    """
    found = dict[str, Weights]()
    for name, layer in layers.items():
        found |= fused_linear(layer, {name: getattr(layer, "out_features", 0)})
    return found


def norms_within(block: nn.Module, *, names: Mapping[str, str]) -> dict[str, Weights]:
    """The norms with a weight inside a module.

    Args:
        block: the module.
        names: the library's dotted names to those that all libraries share; others keep theirs.
    """
    found = dict[str, Weights]()
    for name, module in block.named_modules():
        weight, inner = getattr(module, "weight", None), "parametrizations" in name.split(".")
        if isinstance(weight, Tensor) and weight.ndim == 1 and "Norm" in type(module).__name__ and not inner:
            found[names.get(name, name)] = Weights(Held(module, "weight", 0, len(weight)), held(module, "bias"))
    return found


def plain_type(module: nn.Module) -> type:
    """A module's class, also where some of its weights are exchanged."""
    return torch.nn.utils.parametrize.type_before_parametrizations(module)
