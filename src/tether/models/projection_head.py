"""A head for losses between views of images: a few linear layers with batch norm, thrown away after training."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, checked
from tether.models.blocks.layers import Linear

_EPS = 1e-5


class BatchStandardised(nn.Module):
    """Batch norm over the rows of all processes, by the batch's own statistics always; it keeps none.

    A head that is only ever used in training needs no others, nor does its trailing average, which sees whole batches,
    too. A batch of one row gives the bias.
    """

    def __init__(self, width: int) -> None:
        """Args: width: channels, each with a gain and a bias."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b w"], *, gather: Gather) -> Float[Tensor, "b w"]:
        """Args: x: rows of this process. gather: reaches those of all."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x - gather(x.mean(dim=0, keepdim=True)).mean(dim=0)
        variance = gather(x.square().mean(dim=0, keepdim=True)).mean(dim=0)
        return x * (variance + _EPS).rsqrt() * self.weight + self.bias


class ProjectionHead(nn.Module):
    """Linear layers, each but the last followed by batch norm and ReLU, from an embedding to what a loss compares.

    SimCLR's head (arXiv 2002.05709), BYOL's projector and its predictor (arXiv 2006.07733) differ in their numbers. The
    hidden layers have no bias, as the norm has one.

    Example:
        >>> import torch
        >>> from tether.models.projection_head import ProjectionHead
        >>> made = {"dim": 64, "state": 192, "generator": torch.Generator()}
        >>> ProjectionHead(hidden=128, out=32, **made)(torch.rand(4, 64)).shape
        torch.Size([4, 32])
    """

    @checked
    def __init__(
        self,
        *,
        hidden: Count = 4096,
        layers: Count = 2,
        out: Count = 256,
        inputs: Count | Literal["embedding", "state"] = "embedding",
        last: Literal["linear", "affine"] = "linear",
        dim: int,
        state: int,
        generator: torch.Generator,
    ) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            hidden: channels between two layers.
            layers: how many; A-CLIP has 3 for SimCLR, 2 for BYOL's two.
            out: channels of what comes out.
            inputs: what goes in: an ``embedding``, the ``state`` that it is projected from (of views that want it), or
                so many channels: a predictor has its projector's ``out``.
            last: layer without a bias, or ``affine`` with one.
            dim: channels of an embedding.
            state: channels of the image tower.
            generator: of the weights.
        """
        super().__init__()
        given = {"embedding": dim, "state": state}[inputs] if isinstance(inputs, str) else inputs
        widths = [given, *[hidden] * (layers - 1), out]
        made = [
            Linear(before, after, bias=last == "affine" and number == layers - 1)
            for number, (before, after) in enumerate(pairwise(widths))
        ]
        for layer in made:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        if last == "affine":
            nn.init.zeros_(made[-1].bias)
        self.layers = nn.ModuleList(made)
        self.norms = nn.ModuleList(BatchStandardised(hidden) for _ in range(layers - 1))

    def forward(self, rows: Float[Tensor, "b d"], *, gather: Gather = LOCAL) -> Float[Tensor, "b o"]:
        """Args: rows: of this process, of several views below each other. gather: reaches those of all processes."""
        *hidden, last = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            rows = F.relu(norm(layer(rows), gather=gather))
        return last(rows)
