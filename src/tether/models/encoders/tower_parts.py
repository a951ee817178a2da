"""Which parts of an encoder one side's embedding is made of, whoever built it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from tether.core.errors import InputError
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip

Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")


def owners(model: Clip | WrappedEncoder) -> tuple[nn.Module, Mapping[str, str]]:
    """The module that holds the parts, and the side of each of its modules and parameters by name, or ``both``.

    Raises:
        InputError: a part that is not known to belong to either.
    """
    holder = model if isinstance(model, Clip) else model.model
    known = {name: side for side, names in model.sides.items() for name in names}
    parts = [*dict(holder.named_children()), *dict(holder.named_parameters(recurse=False))]
    for name in parts:
        if name not in known:
            raise InputError(f"{name}: not known as a part of either tower; known: {', '.join(known)}")
    return holder, {name: known[name] for name in parts}


def side_parts(model: Clip | WrappedEncoder, side: Side) -> dict[str, nn.Module | nn.Parameter]:
    """Modules and parameters of one side by name, without those that belong to both, which no embedding needs.

    Raises:
        InputError: as for ``owners``.
    """
    holder, sides = owners(model)
    return {name: getattr(holder, name) for name, owner in sides.items() if owner == side}
