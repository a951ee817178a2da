"""The factor between what a tower gives and the points of a space in which lengths count."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.geometry import GeometryName, is_hyperbolic


@final
class PointScale(nn.Module):
    """Multiplies embeddings by one over the root of their width, or by a factor that starts there and is learned.

    Without it their squared lengths would grow with the width. Source: arXiv 2409.13079, section 3.2 (released code:
    fixed for Euclidean geometries, learned for each tower in hyperbolic ones).
    """

    def __init__(self, dim: int, *, factor: Literal["fixed", "learned"]) -> None:
        """Args: dim: width of the embeddings. factor: whether it is trained."""
        super().__init__()
        start = torch.tensor(-0.5 * math.log(dim))
        self.dim = dim
        self.log_factor = nn.Parameter(start) if factor == "learned" else None

    def forward(self, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The rows, scaled."""
        return rows * (self.dim**-0.5 if self.log_factor is None else self.log_factor.exp())


def point_scale(geometry: GeometryName, *, dim: int) -> PointScale | None:
    """What a tower of a model with this geometry ends in; None where only the direction counts."""
    if geometry in ("clip", "elliptic"):
        return None
    return PointScale(dim, factor="learned" if is_hyperbolic(geometry) else "fixed")
