"""What of a model moves in a tuning: a side, or some of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from torch import nn

from tether.adaptation.finetune.towers import tower_parameters
from tether.adaptation.recipes.refusals import refused
from tether.core.protocols import DualEncoder
from tether.models.composed.towers import TowerSide
from tether.models.encoders.tower_parts import SIDES, Side, side_parts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip

Sides = Literal["image", "text", "both"]


def sides_of(which: Sides) -> tuple[Side, ...]:
    """The sides that a setting names."""
    return SIDES if which == "both" else (which,)


def rest_(model: DualEncoder) -> None:
    """Let nothing move, and no tower of a composed encoder be locked, which would give it no gradient."""
    module = cast(nn.Module, model)
    for part in module.modules():
        if isinstance(part, TowerSide):
            part.lock_("tuned")
    module.requires_grad_(False)


def check_own_towers(model: DualEncoder) -> dict[Side, dict[str, nn.Parameter]]:
    """Refuse a model whose sides share parameters, so that neither can rest while the other moves; it is left as it is.

    Returns:
        The parameters of each side by name.
    """
    reached = _reached(cast("Clip | WrappedEncoder", model))
    if shared := [name for name in reached["image"] if name in reached["text"]]:
        raise refused("shared towers", found=shared[0])
    return reached


def move_(
    model: DualEncoder, side: Sides, *, where: Callable[[str], bool] = lambda name: True
) -> dict[str, nn.Parameter]:
    """Let the parameters of a side move, those whose name fits, and nothing else; the logit scale never does.

    Args:
        model: any encoder of ``tether.load``.
        side: whose.
        where: asked for each dotted name.

    Returns:
        Those that move, by name.

    Raises:
        UnsupportedModelError: there are none, or one side must rest and they share parameters.
    """
    encoder = cast("Clip | WrappedEncoder", model)
    rest_(model)
    reached = _reached(encoder) if side == "both" else check_own_towers(model)
    scale = tower_parameters(encoder, side="scale")
    found = {
        name: parameter
        for one in sides_of(side)
        for name, parameter in reached[one].items()
        if where(name) and name not in scale
    }
    if not found:
        raise refused("nothing moves", found=side)
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found


def _reached(encoder: Clip | WrappedEncoder) -> dict[Side, dict[str, nn.Parameter]]:
    return {one: tower_parameters(encoder, side=one) for one in SIDES}


def prefixes(model: DualEncoder, side: Sides) -> tuple[str, ...]:
    """Beginnings of the dotted names of a side's parts."""
    encoder = cast("Clip | WrappedEncoder", model)
    outer = "" if isinstance(encoder, Clip) else "model."
    return tuple(f"{outer}{name}" for one in sides_of(side) for name in side_parts(encoder, one))
