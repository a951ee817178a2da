"""Images as they are, not resized, a few at a time: for what cuts its own parts out of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import Row
from tether.data.bad_rows import BadRows
from tether.data.images import decode
from tether.data.loader import loader_threads
from tether.data.shuffle import acceptor, until_broken

MOST_PIXELS = 1 << 25
"""Pixels that are held at once, 100 MB, unless one image has more; each thread may hold one more."""


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
        >>> from tether.data.originals import originals
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
