"""The store that is searched: one thread asks it, so that a slow question holds up neither model nor server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.printable import encodable, printable
from tether.core.types import ImageLike, Row
from tether.data.words import WordCounts
from tether.evaluate.cutoff import Cutoff, none_above
from tether.serve.filters import columns_of, condition_of
from tether.serve.refused import RefusedError
from tether.serve.schemas import ColumnFilter
from tether.tasks.retrieve.flat_index import Ranking
from tether.tasks.retrieve.search import Hit, Searcher, image_file
from tether.tasks.retrieve.store import NoRowError
from tether.tasks.retrieve.values import distinct
from tether.tasks.retrieve.vectors import make_thumbnail

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
THUMBNAIL = 320
"""Longest side of what is shown of an image that has no thumbnail of its own."""
LARGE = 1600
_MOST_WAITING = 256
_MOST_VALUES = 100  # of a column, that the page offers
_KEPT = 512  # thumbnails
_MOST_LETTERS = 2000


class Collection:
    """A store with the model that made its vectors, asked by one thread."""

    def __init__(
        self,
        searcher: Searcher,
        *,
        cutoff: Cutoff | None = None,
        images: Path | None = None,
        words: WordCounts | None = None,
    ) -> None:
        """Start the thread and read the vectors.

        Args:
            searcher: the store and its model.
            cutoff: what ``auto`` means, where that is known.
            images: the folder that was embedded, for images without a thumbnail and to show images large.
            words: of the captions that the model learnt from, to warn of others.
        """
        self.searcher, self.cutoff, self.images, self.words = searcher, cutoff, images, words
        self.columns = columns_of(searcher.store.schema)
        self._thread = ThreadPoolExecutor(1, "tether store")
        self._waiting = 0
        self._thumbnails: OrderedDict[str, bytes] = OrderedDict()
        self._described: tuple[int, dict[str, Any]] | None = None
        searcher.store.warm()

    def close(self) -> None:
        """End the thread; nobody waits for an answer any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def search(
        self, vector: Tensor, *, filters: Sequence[ColumnFilter], k: int, cutoff: float | None, text: str | None = None
    ) -> dict[str, Any]:
        """Rows nearest to a vector, that of a text or of an image, as the answer of ``/search``."""
        where = condition_of(filters, self.columns)
        unseen = [] if self.words is None or text is None else self.words.warnings([text])

        def ask() -> dict[str, Any]:
            ranking = self.searcher.store.search(vector.numpy().astype(np.float32), top=k, where=where)
            nearest = float(ranking.scores[0]) if len(ranking.scores) else None
            hits = self.searcher.hits(ranking, images=self.images)
            shown = [self._shown(hit) for hit in hits if cutoff is None or hit.score > cutoff]
            images, nothing = len(self.searcher.store), None
            if nearest is None:
                nothing = "no row passes the filter"
            elif cutoff is not None and not shown:
                nothing = none_above(cutoff, best=nearest, pool=images, filtered=where is not None)
            return {
                "hits": shown,
                "images": images,
                "nearest": nearest,
                "cutoff": cutoff,
                "nothing": nothing,
                "unseen": [encodable(line)[:_MOST_LETTERS] for line in unseen],
            }

        return await self._asked(ask)

    async def vector(self, key: str) -> Tensor:
        """The vector of a row.

        Raises:
            RefusedError: no such key.
        """

        def ask() -> Tensor:
            with _of_a_row():
                rows = self.searcher.store.records([key], columns=["embedding"])
            return F.normalize(Tensor(rows.column("embedding").to_pylist()[0]), dim=0)

        return await self._asked(ask)

    async def thumbnail(self, key: str) -> bytes:
        """The image of a row as a JPEG.

        Raises:
            RefusedError: no such key, or no image is kept of it.
        """

        def ask() -> bytes:
            if key in self._thumbnails:
                self._thumbnails.move_to_end(key)
                return self._thumbnails[key]
            with _of_a_row():
                hit = self.searcher.hits(Ranking((key,), np.zeros(1, dtype=np.float32)), images=self.images)[0]
            if hit.image is None:
                raise RefusedError(404, "no image is kept of this row; serve with --images FOLDER")
            data = _jpeg(hit.image, THUMBNAIL)
            self._thumbnails[key] = data
            while len(self._thumbnails) > _KEPT:
                self._thumbnails.popitem(last=False)
            return data

        return await self._asked(ask)

    async def large(self, key: str) -> bytes:
        """The image of a row as a JPEG of up to 1600 pixels: its file in the folder of images, else the thumbnail.

        Raises:
            RefusedError: see ``thumbnail``.
        """
        store, folder = self.searcher.store, self.images

        def ask() -> bytes | None:
            with _of_a_row():
                paths = store.records([key], columns=["path"]).column("path").to_pylist()
            file = None if folder is None else image_file(paths[0], images=folder)
            return None if file is None else _jpeg(file, LARGE)

        found = None if folder is None or "path" not in store.schema.names else await self._asked(ask)
        return await self.thumbnail(key) if found is None else found

    async def described(self) -> dict[str, Any]:
        """Rows and columns, with the values of those that have few."""

        def ask() -> dict[str, Any]:
            store = self.searcher.store
            if self._described is not None and self._described[0] == store.version:
                return self._described[1]
            columns = []
            for name, kind in self.columns.items():
                values = self._values(name) if kind in ("text", "truth") and name != "key" else None
                columns.append({"name": name, "kind": kind, "values": values})
            found = {
                "images": len(store),
                "columns": columns,
                "large": self.images is not None,
                "cutoff": self.cutoff and {"auto": self.cutoff.threshold, "said": self.cutoff.line(pool=len(store))},
            }
            self._described = (store.version, found)
            return found

        return await self._asked(ask)

    def _values(self, name: str) -> list[Any] | None:
        """The values of a column, or None where they are many."""
        found = distinct(self.searcher.store, name, most=_MOST_VALUES)
        return None if found is None else [plain(value) for value in found]

    def _shown(self, hit: Hit) -> dict[str, Any]:
        return {
            "key": hit.key,
            "score": round(hit.score, 6),
            "texts": [encodable(text)[:_MOST_LETTERS] for text in hit.texts[:20]],
            "image": hit.image is not None,
            "meta": {name: plain(value) for name, value in hit.meta.items()},
        }

    async def _asked(self, ask: Callable[[], T]) -> T:
        if self._waiting >= _MOST_WAITING:
            raise RefusedError(429, "too many searches wait; try again in 1 s", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        except InputError as error:  # what was asked was checked before; where the store lies is nobody's business
            _LOG.error("the store: %s", printable(str(error)))
            raise RefusedError(503, "the store cannot be read now; the server's log says more", retry_after=5) from None
        finally:
            self._waiting -= 1


@contextlib.contextmanager
def _of_a_row() -> Iterator[None]:
    try:
        yield
    except NoRowError:
        raise RefusedError(404, "the store has no row of that key") from None


def _jpeg(image: ImageLike, side: int) -> bytes:
    """Whatever lies there, a JPEG comes; an error would name the file."""
    try:
        data = make_thumbnail(Row("image", image), side=side)
    except (InputError, ImportError):
        raise RefusedError(404, "the image of this row cannot be shown") from None
    assert data is not None  # of an image
    return data


def plain(value: object) -> Any:
    """A cell of a store as JSON can hold it: bytes are left out, dates are words, NaN is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return encodable(value)[:_MOST_LETTERS]
    if isinstance(value, datetime.date | datetime.time | datetime.datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value[:100]]
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in list(value.items())[:100]}
    return None if isinstance(value, bytes) else str(value)[:_MOST_LETTERS]
