"""A bilinear form of a title and an image, and two layers above it: one logit for a pair (arXiv 2204.05533)."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.ranges import Count, checked

Bilinear = Literal["full", "low_rank"]
HIDDEN, RANK = 512, 32


@final
class LowRankBilinear(nn.Module):
    """For each unit the sum over r of (a_r . t)(b_r . v), and a bias: a bilinear form of rank at most r."""

    def __init__(self, dim: int, *, units: int, rank: int, generator: torch.Generator | None = None) -> None:
        """Draw the factors so that the form's entries vary as those of ``torch.nn.Bilinear`` do."""
        super().__init__()
        bound = (9 / (3 * dim * rank)) ** 0.25
        self.text = nn.Parameter(torch.empty(units, rank, dim).uniform_(-bound, bound, generator=generator))
        self.image = nn.Parameter(torch.empty(units, rank, dim).uniform_(-bound, bound, generator=generator))
        edge = 1 / math.sqrt(dim)
        self.bias = nn.Parameter(torch.empty(units).uniform_(-edge, edge, generator=generator))

    def forward(self, text: Float[Tensor, "b d"], image: Float[Tensor, "b d"]) -> Float[Tensor, "b h"]:
        """One value a unit."""
        shape = (len(text), *self.text.shape[:2])
        left = (text @ self.text.flatten(0, 1).T).view(shape)
        right = (image @ self.image.flatten(0, 1).T).view(shape)
        return (left * right).sum(dim=2) + self.bias

    def full_weight(self) -> Float[Tensor, "h d d"]:
        """The same form as the weight of a ``torch.nn.Bilinear``."""
        return torch.einsum("hri,hrj->hij", self.text, self.image)


@final
class PairNetwork(nn.Module):
    """Bilinear, ReLU, linear, ReLU, linear: the logit that an image does not represent its title.

    Source: arXiv 2204.05533, section 4, and its released model.py, whose names the layers have.

    Args:
        dim: width d of both embeddings.
        hidden: units of the two inner layers.
        bilinear: ``full`` has hidden x d x d weights, half a gigabyte at 512; ``low_rank`` has 2 x hidden x rank x d.
        rank: of the latter.
        generator: of the start; None takes torch's own.
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        hidden: Count = HIDDEN,
        bilinear: Bilinear = "low_rank",
        rank: Count = RANK,
        generator: torch.Generator | None = None,
    ) -> None:
        """See the class for what each argument means."""
        super().__init__()
        self.dim, self.hidden, self.rank = dim, hidden, rank
        self.form: Bilinear = bilinear
        self.bilayer: nn.Module
        if bilinear == "full":
            self.bilayer = _drawn(nn.Bilinear(dim, dim, hidden), width=dim, generator=generator)
        else:
            self.bilayer = LowRankBilinear(dim, units=hidden, rank=rank, generator=generator)
        self.linear1 = _drawn(nn.Linear(hidden, hidden), width=hidden, generator=generator)
        self.linear2 = _drawn(nn.Linear(hidden, 1), width=hidden, generator=generator)

    def forward(self, text: Float[Tensor, "b d"], image: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Logit of each pair; above 0 where the image is unrepresentative."""
        inner = torch.relu(self.bilayer(text, image))
        return self.linear2(torch.relu(self.linear1(inner)))[:, 0]


def _drawn(layer: nn.Module, *, width: int, generator: torch.Generator | None) -> nn.Module:
    """The law of torch's own start, from a generator."""
    edge = 1 / math.sqrt(width)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-edge, edge, generator=generator)
    return layer
