"""A tower whose tokens something else reads than its own pooling, such as a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tether.models.features.pooling import MeanPooling, OtherPooling, TokenPooling
from tether.models.features.sealed import AttendedMap
from tether.models.features.tower import Projection, TowerAnatomy


def read_by(reader: Callable[[Tensor], Tensor], tower: TowerAnatomy, *, head: Sequence[Projection]) -> TowerAnatomy:
    """The same tower, its embedding made by the reader of all tokens as ``features.penultimate.read_each`` gives them.

    Args:
        reader: (b, n, w) to (b, v).
        tower: whose blocks and tokens stay; its own pooling and projections fall away.
        head: from the reader's row into the joint space.
    """

    def pool(x: Tensor) -> Tensor:
        return reader(x.flatten(2).transpose(1, 2) if x.ndim == 4 else x)  # a sealed tower's map, or tokens

    pooling = OtherPooling(pool, "a decoder")
    changed: dict[str, Any] = {"norm": token_norm(tower), "pooling": pooling, "after": None, "projections": head}
    if isinstance(tower, AttendedMap):
        changed["place_values"] = pooling.alone
    return replace(tower, **changed)


def token_norm(tower: TowerAnatomy) -> nn.Module | None:
    """The norms that each token of a final stream can have in the tower's width, in order."""
    keeps_width = isinstance(tower.pooling, (TokenPooling, MeanPooling))
    found = [one for one in (tower.norm, tower.after if keeps_width else None) if one is not None]
    return nn.Sequential(*found) if len(found) > 1 else found[0] if found else None
