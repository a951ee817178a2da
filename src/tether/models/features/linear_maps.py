"""The linear maps of a model's towers, by kind and depth: those of known blocks, and plain layers where none are."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from torch import nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.encoders.tower_parts import Side, side_parts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.editable import IN_A_BLOCK
from tether.models.features.find import anatomy_of
from tether.models.features.parametrization import LinearPlace, linears
from tether.models.features.weights import fused_linear
from tether.models.refusals import refusal
from tether.models.towers.clip import Clip

MapKind = Literal["q", "k", "v", "o", "mlp", "other", "map"]
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)
Depth = Literal["all", "top", "middle", "bottom"]
PARTS_OF: Mapping[str, Sequence[str]] = {
    **{name: (name,) for name in "qkv"},
    "o": ("o", "out_gate"),
    "mlp": ("gate", "up", "down"),
}
"""Parts of a block by kind."""


def linear_maps(
    model: DualEncoder | nn.Module,
    *,
    towers: Collection[Side],
    include: Collection[MapKind],
    layers: Depth | Sequence[int],
) -> tuple[LinearPlace, ...]:
    """The linear maps chosen, tower by tower, for ``parametrization.replace``; one that towers share stands once.

    Of a tower whose blocks are known, ``q``, ``k``, ``v``, ``o`` and ``mlp`` are taken apart, also where one matrix
    holds several. Of any other (BERT, ConvNeXt) every linear layer in a repeated block is ``other``; its first number
    is the layer. ``map`` are the linear layers between a composed encoder's towers and the joint space, which no
    choice of layers leaves out.

    Args:
        model: any encoder of ``tether.load``.
        towers: ``image``, ``text`` or both; one without any such map takes no part.
        include: kinds of maps.
        layers: ``all``, a third of the depth (of 12, ``bottom`` is 0 to 3, ``middle`` 4 to 7, ``top`` 8 to 11), or
            indices, which may be counted from the end.

    Raises:
        InputError: nothing is chosen, no such layer, or adapters of PEFT stand in for layers.
        UnsupportedModelError: no encoder of ``tether.load``.
    """
    if not isinstance(model, Clip | WrappedEncoder):
        other: Any = model
        if isinstance(other, DualEncoder):
            anatomy_of(other)  # may say why
        raise refusal("stranger", type(model).__name__)
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise InputError("the model has adapters, which stand in for its layers; merge_ them first")
    found = list[LinearPlace]()
    for side in dict.fromkeys(towers):
        try:
            depth = len(anatomy_of(model, side).blocks)
        except UnsupportedModelError:
            found += _plain(model, side, layers) if "other" in include else []
        else:
            parts = [part for kind in include for part in PARTS_OF.get(kind, ())]
            blocks = chosen_layers(layers, depth)
            found += linears(model, side=side, blocks=blocks, parts=parts) if parts and blocks else []
        if isinstance(model, ComposedEncoder) and "map" in include:
            name = f"{side}_map"
            layer = cast(nn.Module, getattr(model.parts, name))
            found += [_place(model, side, each, block=-1) for each in _linear_layers(layer, prefix=f"model.{name}")]
    if not found:
        raise InputError(
            f"include, layers, towers: no linear map in {', '.join(towers) or 'no tower'} is one of "
            f"{', '.join(include) or 'none'} in layers {layers!r}"
        )
    own: dict[tuple[int, str, int], LinearPlace] = {}  # towers that share their weights have the same places
    for place in found:
        held = place.held("weight")
        own.setdefault((id(held.module), held.name, held.start), place)
    return tuple(own.values())


def _plain(model: Clip | WrappedEncoder, side: Side, layers: Depth | Sequence[int]) -> list[LinearPlace]:
    """Linear layers in the repeated blocks of a tower that is not known from inside."""
    prefix = "" if isinstance(model, Clip) else "model."
    names = [
        name
        for part, module in side_parts(model, side).items()
        if isinstance(module, nn.Module) and not part.endswith("_map")
        for name in _linear_layers(module, prefix=prefix + part)
        if re.search(IN_A_BLOCK, name)
    ]
    numbers = {name: int(cast(re.Match[str], re.search(IN_A_BLOCK, name)).group().strip(".")) for name in names}
    blocks = chosen_layers(layers, max(numbers.values(), default=-1) + 1)
    return [_place(model, side, name, block=number) for name, number in numbers.items() if number in blocks]


def _linear_layers(module: nn.Module, *, prefix: str) -> list[str]:
    return [f"{prefix}.{name}".rstrip(".") for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]


def _place(model: nn.Module, side: Side, name: str, *, block: int) -> LinearPlace:
    layer = cast(nn.Linear, model.get_submodule(name))
    held = fused_linear(layer, {"weight": layer.out_features})["weight"]
    return LinearPlace(f"{side}.{name}", block, "map" if block < 0 else "other", f"{name}.weight", held, 0)


def chosen_layers(layers: Depth | Sequence[int], depth: int) -> list[int]:
    """Indices of layers, in order; InputError for one that there is not."""
    if isinstance(layers, str):
        first, second = round(depth / 3), round(2 * depth / 3)
        spans = {"all": (0, depth), "bottom": (0, first), "middle": (first, second), "top": (second, depth)}
        return list(range(*spans[layers]))
    for index in layers:
        if not -depth <= index < depth:
            raise InputError(f"layers: expected -{depth} to {depth - 1}, got {index}")
    return sorted({index % depth for index in layers})
