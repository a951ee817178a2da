"""Learned queries that read a memory: a fixed number of rows out of any number of tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

Norm = Literal["post", "pre"]
Queries = Literal["input", "positions"]


class QueryDecoder(nn.Module):
    """A transformer decoder over learned queries: self-attention among them, cross-attention to the memory.

    MacCap's (arXiv 2401.02347, section 3.2) is ``norm="post"`` with one layer, where the queries are what enters it.
    DETR's (arXiv 2005.12872) and GRAIN's (arXiv 2412.04429) is ``norm="pre", queries_as="positions"``: zeros enter, and
    the queries are added in every layer to what asks, and in self-attention to what is asked. A layer norm stands at
    the end of both. The layers' parts are those of ``torch.nn.TransformerDecoderLayer``.

    Attributes:
        queries: (q, d) the queries.

    Example:
        >>> import torch
        >>> from tether.models.heads.query_decoder import QueryDecoder
        >>> decoder = QueryDecoder(32, queries=4, heads=4).eval()
        >>> memory = torch.randn(2, 9, 32)
        >>> decoder(memory).shape
        torch.Size([2, 4, 32])
        >>> hidden = torch.arange(9) >= torch.tensor([[9], [5]])  # of the second memory, all after the fifth row
        >>> torch.allclose(decoder(memory, hidden=hidden)[1], decoder(memory[1:, :5])[0], atol=1e-5)
        True
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        queries: Count = 32,
        layers: Count = 1,
        heads: Count = 8,
        inner: Count = 2048,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        norm: Norm = "post",
        queries_as: Queries = "input",
    ) -> None:
        """Make it, with weights from torch's generator.

        Args:
            dim: of memory, queries and output; a number that ``heads`` divides.
            queries: how many.
            layers: how many.
            heads: of each attention.
            inner: width of the feed-forward networks, whose activation is ReLU.
            dropout: in training mode, in attention, feed-forward network and before each addition.
            norm: after each addition, or before what is added.
            queries_as: what enters the first layer, or positions of zeros.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a number that divides dim = {dim}, got {heads}")
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.layers = nn.ModuleList(
            _Layer(dim, heads, inner, dropout, batch_first=True, norm_first=norm == "pre") for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.queries_as: Queries = queries_as
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, memory: Float[Tensor, "b k d"], *, hidden: Bool[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b q d"]:
        """What the queries have read, in the precision of the weights.

        Args:
            memory: rows to read, at least one an example.
            hidden: rows that are not there, such as padding; at least one of each example must be.

        Raises:
            InputError: no rows, all hidden, or rows of another width.
        """
        return self.each(memory, hidden=hidden)[-1]

    def each(
        self, memory: Float[Tensor, "b k d"], *, hidden: Bool[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "l b q d"]:
        """The same after each layer, each with the last norm, as deep supervision takes them."""
        width = self.queries.shape[1]
        if memory.ndim != 3 or not memory.shape[1] or memory.shape[2] != width:
            raise InputError(f"memory: expected (b, k, {width}) with k above 0, got {tuple(memory.shape)}")
        if hidden is not None and bool(hidden.all(1).any()):
            raise InputError("hidden: expected at least one row of each memory to be seen")
        memory = memory.to(self.queries.dtype)
        learned = self.queries.expand(len(memory), -1, -1)
        added = learned if self.queries_as == "positions" else None
        x = learned if added is None else torch.zeros_like(learned)
        found = []
        for layer in self.layers:
            x = layer(x, memory, positions=added, hidden=hidden)
            found.append(self.norm(x))
        return torch.stack(found)


class _Layer(nn.TransformerDecoderLayer):
    """Torch's layer, whose forward knows no positions."""

    def forward(  # pyrefly: ignore  # other arguments than torch's
        self, x: Tensor, memory: Tensor, *, positions: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        def placed(x: Tensor) -> Tensor:
            return x if positions is None else x + positions

        def among(x: Tensor) -> Tensor:
            return self.dropout1(self.self_attn(placed(x), placed(x), x, need_weights=False)[0])

        def across(x: Tensor) -> Tensor:
            read = self.multihead_attn(placed(x), memory, memory, key_padding_mask=hidden, need_weights=False)
            return self.dropout2(read[0])

        def alone(x: Tensor) -> Tensor:
            return self.dropout3(self.linear2(self.dropout(torch.relu(self.linear1(x)))))

        for norm, part in ((self.norm1, among), (self.norm2, across), (self.norm3, alone)):
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x
