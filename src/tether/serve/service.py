"""What the routes ask: the model behind its queue, images, and the store."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from starlette.requests import Request
from torch import Tensor, nn

from tether.core.errors import NotFiniteError, TetherError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.serve.batching import AnsweredRows, Batcher, FullError, StoppingError
from tether.serve.collection import Collection
from tether.serve.images_in import ImagesIn
from tether.serve.limits import ServerLimits
from tether.serve.metrics import Metrics
from tether.serve.refused import RefusedError
from tether.tasks.classify.classify import named
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether.workflows.detectors import detector_of
from tether.workflows.segmenters import segmenter_of

T = TypeVar("T")
_KEPT = 32  # sets of classes whose texts are kept
_MAP_SHARE = 8  # masks and maps hold several numbers for each pixel


class GoneError(Exception):
    """The client went away before its answer was ready."""


@dataclass(eq=False)
class Service:
    """One model, with or without a store.

    Attributes:
        model: what ``tether.load`` gave.
        name: what clients call it.
        limits: what is taken.
        images: reads images of requests.
        metrics: what is counted.
        collection: the store, or None.
        batcher: the queue before the model.
        heads: classifiers by their classes, used by the model's thread alone.
    """

    model: DualEncoder
    name: str
    limits: ServerLimits = field(default_factory=ServerLimits)
    allow_urls: bool = False
    collection: Collection | None = None
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        """Start the threads."""
        if isinstance(self.model, nn.Module):
            self.model.eval()
        self.images = ImagesIn(self.limits, allow_urls=self.allow_urls)
        self.batcher = Batcher(
            self.model,
            rows=self.limits.rows,
            wait_ms=self.limits.wait_ms,
            queue=self.limits.queue,
            on_batch=self.metrics.batch,
        )
        self.metrics.watch_queue(lambda: self.batcher.waiting)
        self.heads: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def close(self, seconds: float) -> None:
        """Finish what was taken, for so many seconds at most."""
        self.batcher.close(seconds)
        self.images.close()
        if self.collection is not None:
            self.collection.close()

    def unit(self, pooled: Float[Tensor, "n d"], dims: int | None = None) -> Float[Tensor, "n d"]:
        """Embeddings as they are given out: of length 1 where the model compares by cosine.

        Raises:
            RefusedError: see ``check_dimensions``.
        """
        self.check_dimensions(dims)
        pooled = pooled[:, :dims]
        return F.normalize(pooled, dim=1) if geometry_of(self.model).unit else pooled

    def check_dimensions(self, dims: int | None) -> None:
        """Refuse more numbers than there are, and fewer of a model whose embeddings cannot be cut."""
        if dims is not None and dims > self.model.dim:
            raise RefusedError(400, f"dimensions: this model has {self.model.dim}, got {dims}", param="dimensions")
        if dims is not None and dims < self.model.dim and not geometry_of(self.model).unit:
            raise RefusedError(400, "dimensions: embeddings of this model's geometry cannot be cut", param="dimensions")

    def check_texts(
        self, texts: Sequence[str], *, where: str = "input", most: int | None = None, letters: int | None = None
    ) -> None:
        """Refuse too many texts, a long or an empty one."""
        most = self.limits.texts if most is None else most
        letters = self.limits.letters if letters is None else min(letters, self.limits.letters)
        if len(texts) > most:
            raise RefusedError(413, f"{where}: {len(texts):,} texts; at most {most:,} in one request", param=where)
        for place, text in enumerate(texts):
            here = where if len(texts) == 1 else f"{where}[{place}]"
            if len(text) > letters:
                said = f"a text of {len(text):,} letters; at most {letters:,} are read"
                raise RefusedError(413, f"{here}: {said}", param=where)
            if not text.strip():
                raise RefusedError(400, f"{here}: the text is empty", param=where)

    async def texts(self, request: Request, texts: Sequence[str]) -> AnsweredRows:
        """Embed texts of a request."""
        return await self.answered(request, self.batcher.texts(texts))

    async def pixels(self, request: Request, pixels: Sequence[Tensor]) -> AnsweredRows:
        """Embed images of the model's size."""
        return await self.answered(request, self.batcher.images(pixels))

    async def classify(
        self, request: Request, pixels: Sequence[Tensor], *, classes: Sequence[str], templates: Any, top: int
    ) -> list[dict[str, Any]]:
        """Names of images."""

        def call(model: DualEncoder) -> list[dict[str, Any]]:
            head = self._kept(
                ("classify", tuple(classes), templates and tuple(templates)),
                lambda: ZeroShotClassifier(templates=templates).prepare(model, list(classes)),
            )
            found = []
            for _, same in groupby(pixels, key=lambda one: one.shape):  # a model of whole patches takes several sizes
                for batch in torch.stack(list(same)).split(self.limits.rows):
                    for label, ranked in named(head.predict(batch), top=min(top, len(classes)), abstain=0.0):
                        found.append({"label": label, "ranked": [each._asdict() for each in ranked]})
            return found

        rows = max(1, min(self.limits.rows, len(pixels)))
        return await self.answered(request, self.batcher.call(call, rows=rows))

    async def segment(self, request: Request, image: Tensor, *, classes: Sequence[str]) -> dict[str, Any]:
        """The class of each pixel."""

        def call(model: DualEncoder) -> dict[str, Any]:
            def made() -> Any:
                segmenter, _ = segmenter_of(None, model, head=None, sharpen=None, background=None, templates=None)
                return segmenter.prepare(model, list(classes))

            masks = self._kept(("segment", tuple(classes)), made).predict([image])[0]
            boxes = [{"label": one.name, "box": list(one.box), "area": one.area} for one in masks.boxes()[:200]]
            return {
                "classes": list(masks.classes),
                "size": list(masks.size),
                "areas": masks.areas(),
                "boxes": boxes,
                "mask": _png(masks.to_image()),
            }

        return await self.answered(request, self.batcher.call(call))

    async def detect(self, request: Request, image: Tensor, *, name: str) -> dict[str, Any]:
        """How unusual an image is, and where."""

        def call(model: DualEncoder) -> dict[str, Any]:
            def made() -> Any:
                detector, method = detector_of(None, head=None, good=False)(model)
                if detector.needs_good:
                    raise UnsupportedModelError(
                        f"defects from words alone need a vision transformer; here is none, and its method, "
                        f"{method}, compares with images without defects: use tether detect --good"
                    )
                return detector.prepare(model, name)

            found = self._kept(("detect", name), made).predict([image])[0]
            y, x = found.peak()
            return {
                "score": found.score,
                "peak": {"x": x, "y": y},
                "size": list(found.size),
                "heat": _png(found.to_image(longest=1024)),
            }

        return await self.answered(request, self.batcher.call(call))

    async def answered(self, request: Request, future: Future[T]) -> T:
        """The result, unless the client goes away first: then it is not computed.

        Raises:
            GoneError: it went away.
            RefusedError: it took too long.
            StoppingError: longer than a server that stops waits.
        """
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answer, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if gone.done():
                raise GoneError
            raise RefusedError(503, f"no answer within {self.limits.seconds:g} s", retry_after=10)
        except asyncio.CancelledError:  # the server stops, and this took longer than it waits
            raise StoppingError from None
        finally:
            gone.cancel()
            answer.cancel()
            future.cancel()

    def map_pixels(self, classes: int = 1) -> int:
        """Pixels of an image that masks or maps are made of, at most: each is compared with every class."""
        return max(1, self.limits.pixels // max(_MAP_SHARE, classes // 2))

    def _kept(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self.heads:
            self.heads[key] = make()
            while len(self.heads) > _KEPT:
                self.heads.popitem(last=False)
        self.heads.move_to_end(key)
        return self.heads[key]


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _png(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def refused_of(error: TetherError) -> RefusedError:
    """What a client is told of an error that a part raised on purpose; bad input, where it is no other."""
    if isinstance(error, FullError):
        return RefusedError(429, str(error), retry_after=error.retry_after, code="queue_full")
    if isinstance(error, StoppingError):
        return RefusedError(503, str(error), retry_after=1)
    if isinstance(error, NotFiniteError):
        return RefusedError(500, str(error))
    if isinstance(error, UnsupportedModelError):
        return RefusedError(422, f"this model cannot do that: {error}", code="unsupported_model")
    return RefusedError(400, str(error))
