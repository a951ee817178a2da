"""From a tower's rows into the joint space; each map is built again from plain settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.composed.class_names import ClassNameMap
from tether.models.composed.embedder import EmbedderAdapter
from tether.models.config_check import mapping, of_kind, size_of

MAX_MAPS = 32
"""Most maps of a side, in one another and side by side."""


class JoinedMaps(nn.Module):
    """Several maps of the same rows side by side, each part scaled to its weight.

    The cosine of two such rows, one of each side, is the mean of the parts' cosines by their squared weights.

    Attributes:
        maps: the parts.
        weights: length of each part.
    """

    weights: Tensor

    def __init__(self, width: int, dim: int, *, parts: list[Mapping[str, Any]], weights: list[float]) -> None:
        """Build the parts from their settings; their ``dim`` add up to the joint space's."""
        super().__init__()
        if len(parts) != len(weights) or sum(part["dim"] for part in parts) != dim:
            raise InputError(f"parts: expected {len(weights)} maps whose dim add up to {dim}, got {parts!r:.200}")
        self.maps = nn.ModuleList(build_map(part) for part in parts)
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, rows: Float[Tensor, "b w"]) -> Float[Tensor, "b d"]:
        """The parts' unit rows, times their weights."""
        parts = zip(self.weights, self.maps, strict=True)
        return torch.cat([weight * F.normalize(part(rows), dim=1) for weight, part in parts], dim=1)


def _mlp(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


def _none(width: int, dim: int) -> nn.Module:
    if width != dim:
        raise InputError(f"join: none: the tower gives rows of {width}, the joint space has {dim}; use linear or mlp")
    return nn.Identity()


def _linear(width: int, dim: int) -> nn.Module:
    return nn.Linear(width, dim)


MAPS: Mapping[str, Callable[..., nn.Module]] = {
    "none": _none,
    "linear": _linear,
    "mlp": _mlp,
    "class_names": ClassNameMap,
    "embedder": EmbedderAdapter,
    "joined": JoinedMaps,
}
"""Maps by name, called with the tower's width, the joint space's dim and the settings of the kind."""


def build_map(settings: Mapping[str, Any]) -> nn.Module:
    """The map that ``{kind: NAME, width: W, dim: D, ...}`` describes, with weights from the global generator."""
    _check(settings)
    more = dict(settings)
    kind = more.pop("kind", None)
    if kind not in MAPS:
        raise InputError(f"join: unknown map {kind!r}; {closest(str(kind), MAPS)}")
    return MAPS[kind](more.pop("width"), more.pop("dim"), **more)


def _check(settings: Any, *, before: int = 0) -> int:
    """Refuse sizes and counts that no map has, before any of it is built; the number of maps with those ``before``."""
    if before == MAX_MAPS:
        raise InputError(f"join: expected at most {MAX_MAPS} maps in one another and side by side")
    for key in ("width", "dim"):
        size_of(mapping(settings, where="join").get(key), where=f"join: {key}")
    found = before + 1
    for part in of_kind(settings.get("parts", []), list, where="join: parts"):
        found = _check(part, before=found)
    for weight in of_kind(settings.get("weights", []), list, where="join: weights"):
        if not math.isfinite(of_kind(weight, float, where="join: weights")):
            raise InputError(f"join: weights: expected finite numbers, got {weight}")
    return found
