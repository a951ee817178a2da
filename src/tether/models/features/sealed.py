"""Towers that show their last states alone: maps of convolutions, and transformers of other kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from tether.models.features.parts import Layout, TokenStream
from tether.models.features.pooling import OtherPooling, Pooling, TokenPooling
from tether.models.features.tower import TowerAnatomy
from tether.models.refusals import refusal


@dataclass(frozen=True, kw_only=True, eq=False)
class SealedTower(TowerAnatomy):
    """A tower without blocks: the stream is its last states, and only the read-out is left.

    Attributes:
        states: a batch to (b, n, w) tokens or a (b, w, rows, columns) map.
    """

    pooling: OtherPooling
    states: Callable[[Tensor], Tensor]

    def embed(self, batch: Tensor) -> TokenStream:
        """The last states, the places of a map row by row."""
        found = self.states(batch)
        if found.ndim == 3:
            return TokenStream(found, Layout.first(found))
        rows, columns = found.shape[2:]
        return TokenStream(found.flatten(2).transpose(1, 2), Layout.first(found, grid=(rows, columns)))

    def read_out(self, stream: TokenStream, *, norm: bool = True) -> Tensor:
        """The embedding; the final norm is part of it."""
        check_normed(norm, self)
        x, grid = stream.x, stream.layout.grid
        return self.project(self.pooling.pool(x if grid is None else x.transpose(1, 2).unflatten(2, grid)))

    def read_tokens(self, stream: TokenStream) -> Tensor:
        """Each token as if it were all there is, also in the place of a class token; a place is a map of one."""
        x = stream.x.flatten(0, 1)
        alone = x[:, None].expand(-1, 1 + self.prefix, -1) if stream.layout.grid is None else x[:, :, None, None]
        return self.project(self.pooling.pool(alone)).unflatten(0, stream.x.shape[:2])


@dataclass(frozen=True, kw_only=True, eq=False)
class AttendedMap(SealedTower):
    """open_clip's ``ModifiedResNet``: its pooling attention adds positions, so a place is its own value alone.

    Attributes:
        place_values: (b, n, w) places to what the pooling's query would get if it attended to one of them only.
    """

    place_values: Callable[[Tensor], Tensor]

    def read_tokens(self, stream: TokenStream) -> Tensor:
        """Each place as the pooled query would see it alone."""
        return self.project(self.place_values(stream.x))


@dataclass(frozen=True, kw_only=True, eq=False)
class SealedText(TowerAnatomy):
    """A text tower without blocks.

    Attributes:
        states: (b, l) ids to the (b, n, w) last states, and (b, n) True for what is no padding.
        pool: those two to one row each.
        token: what is done to a token's row before it is projected.
    """

    prefix: int = 0
    pooling: Pooling = field(default_factory=TokenPooling)
    sealed: str | None = "other text"
    states: Callable[[Tensor], tuple[Tensor, Tensor]]
    pool: Callable[[Tensor, Tensor], Tensor]
    token: Callable[[Tensor], Tensor]

    def embed(self, batch: Tensor) -> TokenStream:
        """The last states."""
        x, seen = self.states(batch)
        return TokenStream(x, Layout.first(x, seen=seen))

    def read_out(self, stream: TokenStream, *, norm: bool = True) -> Tensor:
        """The embedding; the final norm is part of the states."""
        check_normed(norm, self)
        seen = stream.layout.seen
        assert seen is not None  # embed gives it
        return self.project(self.pool(stream.x, seen))

    def read_tokens(self, stream: TokenStream) -> Tensor:
        """Each token as if it were all there is."""
        return self.project(self.token(stream.x))


def check_normed(norm: bool, tower: TowerAnatomy) -> None:
    """Refuse to leave out the final norm of last states, which have it."""
    if not norm:
        raise refusal("final norm", f"norm=False: the tower is of class {tower.what}")
