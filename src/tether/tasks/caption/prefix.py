"""From a memory to the rows that a language model reads before it writes."""

from __future__ import annotations

import math
from typing import Annotated, Any

from annotated_types import Ge, Le, Lt
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import MLP

from tether.core.ranges import Count, checked
from tether.models.heads.query_decoder import QueryDecoder


class PrefixAdaptor(nn.Module):
    """Learned queries read a memory, and a network of three layers makes a prefix of what they read.

    Source: MacCap (arXiv 2401.02347, section 3.2) and its released ``MacCap.py``: a post-norm decoder of one layer,
    layer norm, three linear layers. It has 32 queries for OPT-1.3b; 4 to 8 are enough for a small language model, which
    a long prefix would drown.

    Attributes:
        settings: constructor keywords as plain values.

    Example:
        >>> import torch
        >>> from tether.tasks.caption import PrefixAdaptor
        >>> PrefixAdaptor(64, lm_dim=32, n_queries=4)(torch.randn(2, 10, 64)).shape
        torch.Size([2, 4, 32])
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        lm_dim: Count,
        n_queries: Count = 32,
        n_layers: Annotated[int, Ge(1), Le(64)] = 1,
        inner: Count = 2048,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
    ) -> None:
        """Make it, with weights from torch's generator.

        Args:
            dim: of the memory's rows.
            lm_dim: of the language model's rows of words.
            n_queries: rows of the prefix.
            n_layers: of the decoder.
            inner: width of its feed-forward networks.
            dropout: in training mode.
        """
        super().__init__()
        self.settings: dict[str, Any] = {
            "dim": dim, "lm_dim": lm_dim, "n_queries": n_queries, "n_layers": n_layers, "inner": inner,
            "dropout": dropout,
        }  # fmt: skip
        self.decoder = QueryDecoder(
            dim, queries=n_queries, layers=n_layers, heads=math.gcd(dim, 8), inner=inner, dropout=dropout, norm="post"
        )
        self.network = MLP(dim, [dim, dim, lm_dim])

    def forward(self, memory: Float[Tensor, "b k d"]) -> Float[Tensor, "b q w"]:
        """The prefix; errors as for ``QueryDecoder``."""
        return self.network(self.decoder(memory))
