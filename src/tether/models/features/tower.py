"""One side of an encoder as a stream, blocks and a read-out, alike for every library."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.models.features.parts import BlockAnatomy, Layout, TokenStream
from tether.models.features.pooling import Pooling, TokenPooling
from tether.models.refusals import refusal
from tether.models.towers.patch_selection import take_tokens

Projection = Callable[[Tensor], Tensor] | Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TowerAnatomy(abc.ABC):
    """One side of an encoder: ``read_out(run(embed(batch)))`` is what ``encode_image`` or ``encode_text`` gives.

    Attributes:
        blocks: of the stack, in order; none where the tower is sealed.
        prefix: leading tokens that are no patches.
        width: channels of the stream.
        norm: the final norm where it stands before the pooling, on every token; or None.
        pooling: of the final stream.
        after: the final norm where it stands after the pooling; or None.
        projections: from there into the joint space, each a call or a matrix (w, d).
        sealed: entry of the exceptions that says why there are no blocks; None where there are.
        what: class of the tower, for errors.
    """

    blocks: Sequence[BlockAnatomy] = ()
    prefix: int
    width: int
    norm: nn.Module | None = None
    pooling: Pooling
    after: nn.Module | None = None
    projections: Sequence[Projection]
    sealed: str | None = None
    what: str

    @property
    def heads(self) -> int:
        """Query heads of a block."""
        return self.opened().blocks[0].heads

    def opened(self) -> TowerAnatomy:
        """The tower itself.

        Raises:
            UnsupportedModelError: it is sealed, with the reason.
        """
        if self.sealed is not None:
            raise refusal(self.sealed, f"the tower is of class {self.what}")
        return self

    @abc.abstractmethod
    def embed(self, batch: Tensor) -> TokenStream:
        """Images, uint8 or normalised, or (b, l) token ids, to the stream that enters block 0."""

    def embed_some(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None) -> TokenStream:
        """Images to the stream that enters block 0, of the patches in ``keep`` alone where it is given.

        Leading tokens stay; kept patches keep the positions that they have in the whole image.

        Raises:
            UnsupportedModelError: the tower has no patches, drops some itself, or reads one for all.
        """
        if keep is None:
            return self.embed(image)
        rows, columns = self.opened().grid(image)
        stream = self.embed(image)
        read = isinstance(self.pooling, TokenPooling) and not self.prefix
        if read or stream.x.shape[1] != self.prefix + rows * columns:
            raise refusal("no dropping", f"the tower is of class {self.what}")
        x = take_tokens(stream.x, keep, prefix=self.prefix)
        return replace(stream, x=x, layout=self.layout_of(stream.layout, keep))

    def layout_of(self, layout: Layout, keep: Int[Tensor, "b k"]) -> Layout:
        """The layout of some of the patches, which are no grid any more."""
        return replace(layout, grid=None)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches that images of this size are cut into."""
        found = self.embed(image[:1]).layout.grid
        if found is None:
            raise InputError("grid: a text has none; expected the image side")
        return found

    def place(self, layer: int) -> int:
        """Index of a block from the front, of one that may be counted from the end."""
        depth = len(self.blocks)
        if not -depth <= layer < depth:
            raise InputError(f"layer: expected {-depth} to {depth - 1}, got {layer}")
        return layer % depth

    def run(self, stream: TokenStream, start: int = 0, stop: int | None = None) -> TokenStream:
        """The stream after blocks ``start`` to ``stop``, which is not run; both may be counted from the end.

        Raises:
            InputError: no such block.
        """
        depth = len(self.blocks)
        for name, value in (("start", start), ("stop", stop)):
            if value is not None and not -depth <= value <= depth:
                raise InputError(f"{name}: expected {-depth} to {depth}, got {value}")
        for index in range(*slice(start, stop).indices(depth)):
            stream = self.step(stream, index)
        return stream

    def step(self, stream: TokenStream, index: int) -> TokenStream:
        """The stream after one block."""
        return stream.to(self.blocks[index](stream.x, self.layout_at(stream.layout, index)))

    def layout_at(self, layout: Layout, index: int) -> Layout:
        """What one block is given of a layout."""
        return layout

    def project(self, rows: Float[Tensor, "... v"]) -> Float[Tensor, "... d"]:
        """Pooled and normed rows into the joint space."""
        for step in self.projections:
            rows = rows @ step.to(rows.dtype) if isinstance(step, Tensor) else step(rows)
        return rows

    def read_out(self, stream: TokenStream, *, norm: bool = True) -> Float[Tensor, "b d"]:
        """The embedding, from a final stream as from any other.

        Args:
            stream: after whichever block.
            norm: whether the final norm is applied; some published methods leave it out.
        """
        first, last = (self.norm, self.after) if norm else (None, None)
        pooled = self.pooling(stream.x if first is None else first(stream.x), stream.layout)
        return self.project(pooled if last is None else last(pooled))

    def read_tokens(self, stream: TokenStream) -> Float[Tensor, "b n d"]:
        """Each token through the read-out as if it were all there is."""
        pooled = self.pooling.alone(stream.x if self.norm is None else self.norm(stream.x))
        return self.project(pooled if self.after is None else self.after(pooled))


@dataclass(frozen=True, kw_only=True, eq=False)
class TextAnatomy(TowerAnatomy):
    """A text tower that can also be run from rows that no word has."""

    prefix: int = 0

    @abc.abstractmethod
    def prepare(self, text: Int[Tensor, "b l"]) -> Int[Tensor, "b n"]:
        """Ids, zero after the end, as the tower takes them."""

    @abc.abstractmethod
    def token_rows(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n w"]:
        """The token table's rows of what ``prepare`` gave, before positions."""

    @abc.abstractmethod
    def embed(self, batch: Int[Tensor, "b l"], *, rows: Float[Tensor, "b n w"] | None = None) -> TokenStream:
        """Token ids to the stream that enters block 0.

        Args:
            batch: (b, l) ids, which say where a text ends and what is padding.
            rows: taken in place of ``token_rows(prepare(batch))``, such as learned prompts between them.

        Raises:
            InputError: rows of another shape.
        """

    def rows_of(self, ids: Int[Tensor, "b n"], rows: Float[Tensor, "b n w"] | None) -> Float[Tensor, "b n w"]:
        """The rows that were given for prepared ids, or the token table's."""
        if rows is None:
            return self.token_rows(ids)
        expected = (*ids.shape, self.width)
        if rows.shape != expected:
            raise InputError(f"rows: expected {expected}, one for each token of prepare(text), got {tuple(rows.shape)}")
        return rows
