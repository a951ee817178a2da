"""How towers pool their final stream: one token, a mean, or an attention with a learned query."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.models.features.parts import Layout, by_head
from tether.models.refusals import refusal


class Pooling(abc.ABC):
    """From the states of all tokens, normed if the tower norms before it pools, to one row."""

    @abc.abstractmethod
    def __call__(self, x: Float[Tensor, "b n w"], layout: Layout) -> Float[Tensor, "b v"]:
        """One row for each stream."""

    def alone(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n v"]:
        """Each token pooled as if it were all there is."""
        return x

    @abc.abstractmethod
    def shares(self, x: Float[Tensor, "b n w"], layout: Layout) -> Float[Tensor, "b r n"]:
        """What each reader takes of each token, adding up to 1; an attention has a reader for each head."""


class TokenPooling(Pooling):
    """The state of the token that the layout names."""

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """That row."""
        return layout.read(x)

    def shares(self, x: Tensor, layout: Layout) -> Tensor:
        """All of one token."""
        place = torch.arange(x.shape[1], device=x.device)
        return (place == layout.reads[:, None]).to(x.dtype)[:, None]


@dataclass(frozen=True)
class MeanPooling(Pooling):
    """The mean over the tokens from ``first`` on."""

    first: int = 0

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """That mean."""
        return x[:, self.first :].mean(dim=1)

    def shares(self, x: Tensor, layout: Layout) -> Tensor:
        """The same of each of them."""
        counts = x.new_ones(x.shape[1])
        counts[: self.first] = 0
        return (counts / counts.sum()).expand(len(x), 1, -1)


@dataclass(frozen=True)
class CalledPooling(Pooling):
    """The library's own call.

    Attributes:
        pool: that call, (b, m, w) to (b, v).
        first: leading tokens that it leaves out.
    """

    pool: Callable[[Tensor], Tensor]
    first: int = field(default=0, kw_only=True)

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The library's own row."""
        return self.pool(x[:, self.first :])

    def alone(self, x: Tensor) -> Tensor:
        """The library's row of one token; an attention over one token gives its value."""
        return self.pool(x.flatten(0, 1)[:, None]).unflatten(0, x.shape[:2])


@dataclass(frozen=True)
class AttentionPooling(CalledPooling):
    """An attention with one learned query.

    Attributes:
        pool: the library's own call, (b, m, w) to (b, v).
        query_keys: (b, m, w) to queries (b, h, 1, e) and keys (b, h, m, e).
        values: (h * e, w) of the value projection.
        value_bias: (h * e,) or None.
        output: the output projection.
        rest: from the attention's output what a feed-forward net after it adds, or None.
        first: leading tokens that it leaves out.
    """

    query_keys: Callable[[Tensor], tuple[Tensor, Tensor]]
    values: Tensor
    value_bias: Tensor | None
    output: nn.Module
    rest: Callable[[Tensor], Tensor] | None = None

    def shares(self, x: Tensor, layout: Layout) -> Tensor:
        """The weights of its heads."""
        queries, keys = self.query_keys(x[:, self.first :])
        weights = (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)).softmax(-1)[:, :, 0]
        return torch.cat([weights.new_zeros(*weights.shape[:2], self.first), weights], dim=-1)


@dataclass(frozen=True)
class OtherPooling(CalledPooling):
    """A pooling that is no linear reader of tokens, such as a maximum: it can be called, not described.

    Attributes:
        pool: the library's own call, (b, m, w) to (b, v).
        what: its name.
        first: leading tokens that it leaves out.
    """

    what: str

    def shares(self, x: Tensor, layout: Layout) -> Tensor:
        """Raises the reason."""
        raise refusal("pooling", f"the tower pools by {self.what}")


def projected(
    query: Callable[[Tensor], Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], *, heads: int
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The ``query_keys`` of an attention by its projections.

    Args:
        query: function from tokens to the rows that become queries.
        weights: matrices of queries and keys, (w, w) each; further ones are not used.
        biases: vectors beside them, (w,) each.
        heads: number of heads.
    """

    def query_keys(x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (
            by_head(F.linear(rows, weights[at], biases[at]), heads=heads) for at, rows in ((0, query(x)), (1, x))
        )
        return first, second

    return query_keys
