"""In which order the rows of a source are visited, without end, and how to resume from the middle.

Both orders depend on the seed, the epoch and the source alone: not on time, workers or the number of processes.

* *full*: every row is held in memory (images as their encoded bytes or paths), and each epoch is one permutation.
* *window*: the blocks are permuted, read one after another, and shuffled within windows of a fixed number of rows.
  A position is (epoch, window, where the window begins, batch within the window): going on reads one window at most.

What does not fill a batch at the end of an epoch is left out of that epoch; the next shuffle leaves out others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Source
from tether.core.types import Row
from tether.data.bad_rows import NO_CAPTION, BadRows


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next batch begins.

    Attributes:
        epoch: passes over the source that are finished.
        window: windows of this epoch that are finished (0 in the full order).
        block: index, in the epoch's order of blocks, of the block that the window begins in.
        row: row of that block.
        batch: batches of this window (of this epoch, in the full order) that were handed out.
    """

    epoch: int = 0
    window: int = 0
    block: int = 0
    row: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """One global batch before anything is decoded.

    Attributes:
        pool: the rows in reach, of the epoch or of the window.
        order: (n,) indices into the pool, shuffled.
        start: the batch is ``order[start : start + batch_size]``.
        epoch: passes finished before.
        window: windows of this epoch finished before.
        after: where the next batch begins.
    """

    pool: Sequence[Row]
    order: np.ndarray
    start: int
    epoch: int
    window: int
    after: Position


def permutation(count: int, *, seed: int, salt: str) -> np.ndarray:
    """(count,) int64: a permutation drawn from the seed and a word."""
    return np.random.Generator(np.random.Philox(hash_int(salt, seed=seed, salt="order"))).permutation(count)


def full_order(rows: Sequence[Row], position: Position, *, batch_size: int, seed: int) -> Iterator[Draft]:
    """Endless batches, each epoch a permutation of all rows."""
    per_epoch = len(rows) // batch_size
    epoch, batch = position.epoch, position.batch
    while True:
        order = permutation(len(rows), seed=seed, salt=f"epoch {epoch}")
        while batch < per_epoch:
            following = Position(epoch, batch=batch + 1) if batch + 1 < per_epoch else Position(epoch + 1)
            yield Draft(rows, order, batch * batch_size, epoch, 0, following)
            batch += 1
        epoch, batch = epoch + 1, 0


def window_order(
    source: Source,
    position: Position,
    *,
    batch_size: int,
    window_rows: int,
    seed: int,
    bad: BadRows,
    need_image: bool = True,
) -> Iterator[Draft]:
    """Endless batches out of windows over permuted blocks.

    Raises:
        InputError: an epoch holds fewer good rows than one batch.
    """
    window_rows = max(1, window_rows // batch_size) * batch_size
    blocks = source.blocks()
    while True:
        epoch, any_batch = position.epoch, position.window > 0
        order_of_blocks = permutation(len(blocks), seed=seed, salt=f"blocks of epoch {epoch}")
        stream = _stream(source, [blocks[i] for i in order_of_blocks], position, bad=bad)
        window, begin = position.window, (position.block, position.row)
        batch, ended = position.batch, False
        while not ended:
            pool, following = _take(stream, window_rows, bad=bad, need_image=need_image)
            ended = following is None
            order = permutation(len(pool), seed=seed, salt=f"epoch {epoch} window {window}")
            whole = len(pool) // batch_size
            while batch < whole:
                any_batch = True
                if batch + 1 < whole:
                    after = Position(epoch, window, *begin, batch=batch + 1)
                else:
                    after = Position(epoch, window + 1, *following) if following else Position(epoch + 1)
                yield Draft(pool, order, batch * batch_size, epoch, window, after)
                batch += 1
            if following:
                window, begin, batch = window + 1, following, 0
        if not any_batch:
            raise InputError(f"{source.name}: fewer good rows than one batch of {batch_size}")
        position = Position(epoch + 1)


def _stream(source: Source, blocks: Sequence, position: Position, *, bad: BadRows) -> Iterator[tuple[Row, int, int]]:
    """Rows with the block and row they stand in; a block that breaks is named and the next one goes on."""
    for index in range(position.block, len(blocks)):
        row = position.row if index == position.block else 0
        for item in until_broken(source, blocks[index], start=row, bad=bad):
            yield item, index, row
            row += 1


def until_broken(source: Source, block, *, start: int = 0, bad: BadRows) -> Iterator[Row]:
    """The rows of a block up to where it breaks, if it does; the break is named as a bad row under the block's id."""
    try:
        yield from source.read(block, start=start)
    except InputError as error:
        bad.add(block.id, str(error))


def _take(
    stream: Iterator[tuple[Row, int, int]], count: int, *, bad: BadRows, need_image: bool
) -> tuple[list[Row], tuple[int, int] | None]:
    """The next usable rows, and where the window after them begins (None at the end of the epoch)."""
    pool: list[Row] = []
    accept = acceptor(bad, need_text=True, need_image=need_image)
    for row, block, index in stream:
        if accept(row):
            pool.append(row)
            if len(pool) == count:
                return pool, (block, index + 1)
    return pool, None


def acceptor(bad: BadRows, *, need_text: bool, need_image: bool = True) -> Callable[[Row], bool]:
    """A test that names and refuses rows without image, without caption, already found bad, or seen before."""
    seen: set[str] = set()

    def accept(row: Row) -> bool:
        reason = reason_against(row, need_text=need_text, need_image=need_image)
        if reason is None and row.key in seen:
            reason = "duplicate key; the first row of that key is kept"
        if reason is None:
            seen.add(row.key)
            return True
        bad.tried(1)
        bad.add(row.key, reason)
        return False

    return accept


def reason_against(row: Row, *, need_text: bool, need_image: bool = True) -> str | None:
    """Why a row cannot be used, before its image is opened."""
    if row.bad:
        return row.bad
    if need_image and row.image is None:
        return "no image"
    if need_text and not any(text.strip() for text in row.texts):
        return NO_CAPTION[bool(row.texts)]
    return None
