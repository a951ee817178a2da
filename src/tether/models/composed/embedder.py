"""From the rows of a text embedder into a CLIP's space: ProCLIP's adapter."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.ranges import Count, checked

EXPANSION = 8  # released openclip/model.py
Few = Annotated[int, Ge(1), Le(64)]


class EmbedderAdapter(nn.Module):
    """Rows to length 1, residual blocks ``x + W2 GELU(W1 LN(x))``, layer norm, and one linear layer.

    In a composed encoder it is the map ``embedder`` behind a text tower that rests.

    Source: ProCLIP (arXiv 2510.18795) and its released ``TextProj``, without that one's dropout of 0.

    Example:
        >>> import torch
        >>> from tether.models.composed.embedder import EmbedderAdapter
        >>> adapter, rows = EmbedderAdapter(8, 6), torch.randn(3, 8)
        >>> adapter(rows).shape, bool(torch.allclose(adapter(rows), adapter(5 * rows), atol=1e-5))
        (torch.Size([3, 6]), True)
    """

    @checked
    def __init__(self, d_in: Count, d_out: Count, *, expansion: Few = EXPANSION, blocks: Few = 1) -> None:
        """Draw weights as torch's layers do, from the global generator.

        Args:
            d_in: length of the embedder's rows.
            d_out: size of the joint space.
            expansion: width of a block's hidden layer over that of the rows.
            blocks: residual blocks.
        """
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(d_in), nn.Linear(d_in, expansion * d_in), nn.GELU(), nn.Linear(expansion * d_in, d_in)
            )
            for _ in range(blocks)
        )
        self.norm, self.project = nn.LayerNorm(d_in), nn.Linear(d_in, d_out)

    def forward(self, rows: Float[Tensor, "b e"]) -> Float[Tensor, "b d"]:
        """Rows of any length to embeddings, not normalised."""
        x = F.normalize(rows, dim=1)
        for block in self.blocks:
            x = x + block(x)
        return self.project(self.norm(x))
