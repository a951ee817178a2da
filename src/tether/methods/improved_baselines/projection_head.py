"""Linear layers with batch norm and ReLU between them: the heads of losses between views, which no model keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Count, checked
from tether.methods.improved_baselines.synced_batch_norm import SyncedBatchNorm
from tether.models.towers.blocks.layers import Linear

LastNorm = Literal["none", "plain", "scaled"]


class Projector(nn.Module):
    """Linear layers, all but the last followed by batch norm over all processes and ReLU."""

    def __init__(
        self,
        inputs: int,
        *,
        hidden: Sequence[int],
        out: int,
        bias: bool,
        last_bias: bool,
        last_norm: LastNorm = "none",
        generator: torch.Generator,
    ) -> None:
        """Draw the weights from the generator: normal, with a variance of 2 (hidden) or 1 (last) over the inputs.

        Args:
            inputs: channels of the rows.
            hidden: widths of the hidden layers.
            out: width of the result.
            bias: whether the hidden layers have one, beside their norm's.
            last_bias: whether the last one has.
            last_norm: ``plain`` or ``scaled`` batch norm at the end, without or with factors.
            generator: of the weights.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for place, (width, after) in enumerate(zip([inputs, *hidden], [*hidden, out], strict=True)):
            ends = place == len(hidden)
            layer = Linear(width, after, bias=last_bias if ends else bias)
            nn.init.normal_(layer.weight, std=((1 if ends else 2) / width) ** 0.5, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            layers += [layer] if ends else [layer, SyncedBatchNorm(after), nn.ReLU()]
        if last_norm != "none":
            layers.append(SyncedBatchNorm(out, affine=last_norm == "scaled"))
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Float[Tensor, "b d"], *, gather: Gather = LOCAL) -> Float[Tensor, "b o"]:
        """Args: rows: of this process, of several views below each other. gather: reaches those of all processes."""
        for layer in self.layers:
            rows = layer(rows, gather=gather) if isinstance(layer, SyncedBatchNorm) else layer(rows)
        return rows


class ProjectionHead(Projector):
    """A projector from an embedding, or from the state before it, to what a loss compares.

    SimCLR's head (arXiv 2002.05709), BYOL's projector and its predictor (arXiv 2006.07733) differ in their numbers. The
    hidden layers have no bias, as the norm has one.

    Example:
        >>> import torch
        >>> from tether.methods.improved_baselines.projection_head import ProjectionHead
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
        super().__init__(
            {"embedding": dim, "state": state}[inputs] if isinstance(inputs, str) else inputs,
            hidden=[hidden] * (layers - 1),
            out=out,
            bias=False,
            last_bias=last == "affine",
            generator=generator,
        )
