"""The good rows of a source in its own order, with their images: as they are, or as a model wants them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import ImageSpec, Row
from tether.data.bad_rows import BadRows
from tether.data.images import decode, load
from tether.data.shuffle import acceptor, until_broken

MOST_PIXELS = 1 << 25
"""Pixels that are held at once, 100 MB, unless one image has more; each thread may hold one more."""


@contextlib.contextmanager
def loader_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode. At the end they are told to stop, and nobody waits for them.

    Where a loader is dropped, the garbage collector ends its block, in any thread. If that thread is one that is just
    starting, waiting for the others would never end.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tether-data")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ordered(
    source: Source,
    *,
    image_spec: ImageSpec,
    batch_size: int,
    workers: int = 0,
    strict: bool = False,
    on_bad: Path | BadRows | None = None,
    limit: int | None = None,
    exact: bool = False,
) -> Iterator[tuple[list[Row], Tensor]]:
    """Every good row once, in the source's order, with its image; for evaluation and embedding.

    Args:
        source: where rows come from.
        image_spec: how the model wants its images.
        batch_size: rows at a time; the last batch may be smaller, and so may any where images keep their aspect
            (``resize: patches``), since a batch has one size.
        workers: threads that decode; the order does not depend on them.
        strict: raise at the first bad row instead of skipping it.
        on_bad: JSON-lines log of bad rows, or an account of several readings, for which no good row is no error.
        limit: stop after this many good rows.
        exact: resize by Pillow, see ``data.images.resize_and_crop``.

    Yields:
        the rows and their images, (b, 3, H, W) uint8.

    Raises:
        InputError: not one good row, or a bad row under ``strict``.
    """
    bad = on_bad if isinstance(on_bad, BadRows) else BadRows(source.name, path=on_bad, strict=strict)

    def open_image(row: Row) -> Tensor | InputError:
        try:
            return load(row.image, image_spec, name=row.key, exact=exact)  # pyrefly: ignore - `accept` refuses None
        except InputError as error:
            return error

    done = 0
    with loader_threads(max(1, workers)) as pool:
        accept = acceptor(bad, need_text=False)
        rows = (row for block in source.blocks() for row in until_broken(source, block, bad=bad) if accept(row))
        images = _ahead(rows, open_image, pool=pool, ahead=2 * batch_size if workers else 0)
        kept: list[tuple[Row, Tensor]] = []
        for row, image in images:
            bad.tried(1)
            if isinstance(image, InputError):
                bad.add(row.key, str(image))
                continue
            if kept and image.shape != kept[0][1].shape:
                yield [row for row, _ in kept], torch.stack([image for _, image in kept])
                kept = []
            kept.append((row, image))
            done += 1
            if len(kept) == batch_size or done == limit:
                yield [row for row, _ in kept], torch.stack([image for _, image in kept])
                kept = []
            if done == limit:
                return
        if kept:
            yield [row for row, _ in kept], torch.stack([image for _, image in kept])
    if not done and bad is not on_bad:
        raise InputError(f"{source.name}: {bad.nothing_good()}")


def originals(
    source: Source, *, bad: BadRows, batch_size: int = 64, workers: int = 0, most_pixels: int = MOST_PIXELS
) -> Iterator[tuple[list[Row], list[UInt8[Tensor, "3 h w"]]]]:
    """Every good row once, in the source's order, with its image as ``data.images.decode`` gives it.

    Args:
        source: where rows come from.
        bad: the account of rows that are skipped.
        batch_size: rows at a time, at most.
        workers: threads that decode; each holds one image.
        most_pixels: of the images of one batch, at most, unless one alone has more.

    Example:
        >>> from tether.data import open_source
        >>> from tether.data.bad_rows import BadRows
        >>> from tether.data.in_order import originals
        >>> scenes = open_source("scenes:rows=5,size=64")
        >>> [len(rows) for rows, _ in originals(scenes, bad=BadRows("scenes"), most_pixels=2 * 64 * 64)]
        [2, 2, 1]
    """

    def attempt(row: Row) -> Tensor | InputError:
        try:
            return decode(row.image, name=row.key)  # pyrefly: ignore - `accept` refuses None
        except InputError as error:
            return error

    rows, images, held = list[Row](), list[Tensor](), 0
    accept = acceptor(bad, need_text=False)
    good = (row for block in source.blocks() for row in until_broken(source, block, bad=bad) if accept(row))
    with loader_threads(max(1, workers)) as pool:
        while some := list(islice(good, max(1, workers))):
            for row, image in zip(some, pool.map(attempt, some), strict=True):
                bad.tried(1)
                if isinstance(image, InputError):
                    bad.add(row.key, str(image))
                    continue
                size = image.shape[1] * image.shape[2]
                if rows and (len(rows) == batch_size or held + size > most_pixels):
                    yield rows, images
                    rows, images, held = [], [], 0
                rows.append(row)
                images.append(image)
                held += size
    if rows:
        yield rows, images


def _ahead(rows: Iterable[Row], work, *, pool: ThreadPoolExecutor, ahead: int) -> Iterator[tuple[Row, Any]]:
    """``(row, work(row))`` in order, with up to ``ahead`` rows in work at a time; 0 works when asked."""
    if ahead == 0:
        for row in rows:
            yield row, work(row)
        return
    rows = iter(rows)
    waiting: deque[tuple[Row, Future[Any]]] = deque()
    try:
        while True:
            for row in islice(rows, ahead - len(waiting)):
                waiting.append((row, pool.submit(work, row)))
            if not waiting:
                return
            row, future = waiting.popleft()
            yield row, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
