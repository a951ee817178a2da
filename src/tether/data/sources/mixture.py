"""Several sources as one, in given proportions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import numpy as np

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Source
from tether.core.ranges import Count, checked
from tether.core.types import Block, Row
from tether.data.blocks import cut, indices

_BLOCK_ROWS = 4096
Weights = Literal["size"] | tuple[float, ...]


class MixtureSource:
    """Rows of several sources, shuffled together, so that every stretch holds them in about the same proportions.

    Each source is read in its own order. One that is asked for more rows than it has begins again; repeated rows have
    ``#2``, ``#3``... at the end of their keys. ``meta["part"]`` says which source a row comes from.

    Source: arXiv 2311.04711, section 4 (uniform sampling over the union). There each row is drawn at random; here the
    proportions are exact to one row.

    Attributes:
        counts: rows of each source in the mixture.
    """

    @checked
    def __init__(
        self,
        *,
        sources: tuple[str | dict[str, Any], ...],
        weights: Weights = "size",
        rows: Count | None = None,
        seed: int = 0,
    ) -> None:
        """Open the sources and count their rows; those that do not know (tars, papers) are read once for it.

        Args:
            sources: what ``open_source`` takes.
            weights: ``size`` for the union of all, or a fraction of each source (>= 0, of any sum).
            rows: how many in all; None takes every row of the union, or as many as need no repetition.
            seed: of the order.
        """
        from tether.data.opening import open_source

        self._begin([open_source(spec, where="mixture") for spec in sources], weights=weights, rows=rows, seed=seed)

    @classmethod
    def of(
        cls, datasets: Sequence[Source], *, weights: Weights = "size", rows: Count | None = None, seed: int = 0
    ) -> MixtureSource:
        """The same of sources that are open."""
        made = cls.__new__(cls)
        made._begin(list(datasets), weights=weights, rows=rows, seed=seed)
        return made

    def _begin(self, sources: list[Source], *, weights: Weights, rows: int | None, seed: int) -> None:
        if not sources:
            raise InputError("mixture: expected at least one source, got none")
        self._sources = sources
        self._blocks = [list(source.blocks()) for source in sources]
        self._ends = [
            np.cumsum([_count(source, block) for block in blocks], dtype=np.int64)
            for source, blocks in zip(sources, self._blocks, strict=True)
        ]
        self._sizes = [int(ends[-1]) if len(ends) else 0 for ends in self._ends]
        self.counts = mixed_counts(self._sizes, weights=weights, rows=rows)
        self.name = f"mixture of {', '.join(source.name for source in sources)}"
        versions = "\x00".join(f"{source.name}\x00{source.version}" for source in sources)
        self.version = f"{hash_int(f'{versions}{self.counts}', seed=seed):016x}"
        kind = np.uint8 if len(sources) <= 256 else np.uint16
        self._order = np.repeat(np.arange(len(sources), dtype=kind), self.counts)
        np.random.Generator(np.random.Philox(hash_int("mixture", seed=seed))).shuffle(self._order)

    def __len__(self) -> int:
        """How many rows."""
        return len(self._order)

    def blocks(self) -> Sequence[Block]:
        """Stretches of 4,096 rows."""
        return cut(len(self._order), length=_BLOCK_ROWS)

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one stretch from row ``start`` on."""
        rows = indices(block, start=start, rows=len(self._order), length=_BLOCK_ROWS, where=self.name)
        before = np.bincount(self._order[: rows.start], minlength=len(self._sources))
        streams = [self._stream(index, int(count)) for index, count in enumerate(before)]
        for index in self._order[rows.start : rows.stop]:
            yield next(streams[index])

    def _stream(self, index: int, position: int) -> Iterator[Row]:
        """Rows of one source from a position on, beginning again at its end, for ever."""
        source, ends, size = self._sources[index], self._ends[index], self._sizes[index]
        while True:
            turn, place = divmod(position, size)
            at = int(np.searchsorted(ends, place, side="right"))
            begin = int(ends[at - 1]) if at else 0
            for row in islice(source.read(self._blocks[index][at], start=place - begin), int(ends[at]) - place):
                again = f"#{turn + 1}" if turn else ""
                yield replace(row, key=f"{index}/{row.key}{again}", meta={**row.meta, "part": source.name})
                position += 1
            if position < turn * size + int(ends[at]):
                raise InputError(f"{source.name}: block {self._blocks[index][at].id!r} has fewer rows than before")


mix = MixtureSource.of
"""Several open sources as one."""


@checked
def mixed_counts(sizes: Sequence[int], *, weights: Weights, rows: Count | None) -> list[int]:
    """How many rows of each source, exact to one row; the first of equal remainders gets it.

    Args:
        sizes: rows that each source has.
        weights: ``size`` or a fraction of each.
        rows: of all together; None: all, or as many as need no repetition.
    """
    shares = np.asarray(sizes if weights == "size" else weights, dtype=np.float64)
    if shares.shape != (len(sizes),) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise InputError(f"weights: expected {len(sizes)} shares of at least 0, not all 0, got {weights!r} of {sizes}")
    empty = [number for number, size in enumerate(sizes) if not size and shares[number] > 0]
    if empty:
        raise InputError(f"source {empty[0]} is empty, but the mixture wants rows of it")
    if weights == "size" and rows is None:
        return list(sizes)
    shares /= shares.sum()
    if rows is None:
        rows = int(min(size / share for size, share in zip(sizes, shares, strict=True) if share > 0) + 1e-9)
    exact = shares * max(rows, 1)
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - counts), kind="stable")[: max(rows, 1) - int(counts.sum())]
    counts[largest] += 1
    return counts.tolist()


def _count(source: Source, block: Block) -> int:
    return block.rows if block.rows is not None else sum(1 for _ in source.read(block))
