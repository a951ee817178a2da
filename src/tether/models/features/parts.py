"""What a tower is made of: a stream of tokens, where they stand, and blocks that add to them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.models.features.weights import Weights, norms_within
from tether.models.refusals import refusal


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch's tokens carry along through the blocks.

    Attributes:
        reads: (b,) index of the token that is read where one is: the class token or the end of a text.
        bias: added to the scores, broadcastable to (b, heads, n, n), minus infinity hides a key; or None.
        grid: rows and columns of an image's patches.
        ids: (b, n) token ids of a text as its tower takes them.
        seen: (b, n) True for what is no padding, where the read-out must know.
        turn: what turns queries and keys, as the tower's own library hands it to its blocks.
    """

    reads: Int[Tensor, " b"]
    bias: Tensor | None = None
    grid: tuple[int, int] | None = None
    ids: Tensor | None = None
    seen: Tensor | None = None
    turn: Any = None

    @classmethod
    def first(cls, x: Float[Tensor, "b n w"], **more: Any) -> Layout:
        """That of tokens of which the first is read, as of an image."""
        return cls(torch.zeros(len(x), dtype=torch.int64, device=x.device), **more)

    def read(self, x: Float[Tensor, "b n ..."]) -> Float[Tensor, "b ..."]:
        """Of the tokens of each row the one that is read."""
        return x[torch.arange(len(x), device=x.device), self.reads]


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Tokens between two blocks.

    Attributes:
        x: (b, n, w) their states.
        layout: of the batch.
        extra: sums over the batch that a training step may ask for, by name.
    """

    x: Float[Tensor, "b n w"]
    layout: Layout
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, x: Float[Tensor, "b n w"]) -> TokenStream:
        """Other states in the same places."""
        return replace(self, x=x)


@dataclass(frozen=True, slots=True)
class WayOut:
    """From the heads of an attention back into the stream.

    ``scale * outer(factor * linear(inner(heads * head_factor)))``, of which most towers have ``linear`` alone.

    Attributes:
        linear: (heads * e) to w.
        head_factor: (h,) of each head.
        inner: norm over all heads' channels.
        factor: (w,) after the linear layer.
        outer: norm of the branch.
        scale: (w,) layer scale.
    """

    linear: nn.Module
    head_factor: Tensor | None = None
    inner: nn.Module | None = None
    factor: Tensor | None = None
    outer: nn.Module | None = None
    scale: Tensor | None = None

    def __call__(self, heads: Float[Tensor, "b h n e"]) -> Float[Tensor, "b n w"]:
        """The branch that attention adds."""
        if self.head_factor is not None:
            heads = heads * self.head_factor[:, None, None].to(heads.dtype)
        x = heads.transpose(1, 2).flatten(2)
        x = self.linear(x if self.inner is None else self.inner(x))
        x = x if self.factor is None else x * self.factor.to(x.dtype)
        x = x if self.outer is None else self.outer(x)
        return x if self.scale is None else x * self.scale.to(x.dtype)


class BlockAnatomy(abc.ABC):
    """One block in pieces.

    ``y = x + attention(x, layout)`` and then ``y + feed_forward(y, layout)`` is the block's own call. A block that
    does more than add to the stream has its call alone; its pieces raise with the reason.

    Attributes:
        heads: number of query heads.
        block: the library's module.
        norm_names: the library's names of the norms before attention and before the feed-forward net, to ``norm1`` and
            ``norm2``.
    """

    heads: int
    block: Any
    norm_names: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def __call__(self, x: Float[Tensor, "b n w"], layout: Layout) -> Float[Tensor, "b n w"]:
        """The library's own call."""

    @property
    @abc.abstractmethod
    def out(self) -> WayOut:
        """From the heads into the stream."""

    def norm1(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """The norm before attention, of a block that has one."""
        return self._normed(x, "norm1")

    def norm2(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """The norm before the feed-forward net, of a block that has one."""
        return self._normed(x, "norm2")

    def _normed(self, x: Tensor, norm: str) -> Tensor:
        layers = self.block.named_children()
        return next((layer for name, layer in layers if self.norm_names.get(name, name) == norm), nn.Identity())(x)

    @abc.abstractmethod
    def qkv(self, normed: Float[Tensor, "b n w"], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (b, h, n, e) each, normed and turned as the block does it."""

    @abc.abstractmethod
    def feed_forward(self, x: Float[Tensor, "b n w"], layout: Layout) -> Float[Tensor, "b n w"]:
        """What the feed-forward net adds, with its norm and its layer scale."""

    @abc.abstractmethod
    def linears(self) -> Mapping[str, Weights]:
        """Where the weights of its linear maps lie, by names of ``models.features.weights.PARTS``."""

    def norms(self) -> Mapping[str, Weights]:
        """Where the weights of its norms lie; ``norm1`` and ``norm2`` are named alike everywhere."""
        return norms_within(self.block, names=self.norm_names)

    def weights(
        self, queries: Float[Tensor, "b h m e"], keys: Float[Tensor, "b h n e"], bias: Tensor | None
    ) -> Float[Tensor, "b h m n"]:
        """What each query takes of each key, adding up to 1, in the inputs' precision."""
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)
        return (scores if bias is None else scores + bias.to(scores.dtype)).softmax(-1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Float[Tensor, "b h m e"]:
        """What the heads read."""
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=None if bias is None else bias.to(queries.dtype)
        )

    def project(self, heads: Float[Tensor, "b h n e"]) -> Float[Tensor, "b n w"]:
        """What the heads add to the stream."""
        return self.out(heads)

    def attention(self, x: Float[Tensor, "b n w"], layout: Layout) -> Float[Tensor, "b n w"]:
        """What attention adds to the stream, from all of its pieces."""
        return self.project(self.attend(*self.qkv(self.norm1(x), layout), layout.bias))


class WholeBlock(BlockAnatomy):
    """A block that cannot be taken into pieces."""

    def __init__(self, *, heads: int, reason: str, what: str) -> None:
        """Args: heads: of it. reason: entry of the exceptions. what: it is about."""
        self.heads, self._refusal = heads, (reason, what)

    def _refuse(self, *args: Any, **named: Any) -> Any:
        raise refusal(*self._refusal)

    norm1 = norm2 = qkv = feed_forward = linears = _refuse
    out = property(_refuse)


class CalledBlock(WholeBlock):
    """A library's block of a kind that is not known here."""

    def __init__(self, block: Any, *, call: Callable[[Any, Tensor, Layout], Tensor], heads: int) -> None:
        """Args: block: its module. call: of the block, its input and its layout to its output. heads: of it."""
        what = f"blocks of kind {type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
        super().__init__(heads=heads, reason="blocks", what=what)
        self.block, self._call = block, call

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return self._call(self.block, x, layout)


def by_head(x: Float[Tensor, "b n c"], *, heads: int) -> Float[Tensor, "b h n e"]:
    """Channels to heads.

    Raises:
        InputError: the number of heads does not divide them.
    """
    if heads < 1 or x.shape[-1] % heads:
        raise InputError(f"heads: expected a divisor of the {x.shape[-1]} channels of attention, got {heads}")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def hiding(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A bias of zero where ``seen`` is True and minus infinity elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)


def causal(n: int, device: torch.device) -> Tensor:
    """(n, n) True where a token (row) sees another (column): itself and what stands before it."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def or_nothing(module: nn.Module | None) -> nn.Module | None:
    """None for a module that does nothing."""
    return None if isinstance(module, nn.Identity) else module
