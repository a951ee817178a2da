"""Rows of all clients joined into batches, in one thread that owns the model."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tether.core.errors import NotFiniteError, TetherError, is_fault
from tether.core.protocols import DualEncoder
from tether.models.embed import encode_images, encode_texts
from tether.models.texts.truncation_check import all_whole, unheard
from tether.models.tokenizer import lengths

Kind = Literal["text", "image", "call"]
OnBatch = Callable[[Kind, int, float], None]
_MOST_WAIT = 60


class FullError(TetherError):
    """The queue is full.

    Attributes:
        retry_after: seconds after which there may be room.
    """

    def __init__(self, retry_after: int) -> None:
        """Say when to try again."""
        super().__init__(f"too many requests wait; try again in {retry_after} s")
        self.retry_after = retry_after


class StoppingError(TetherError):
    """The server is being stopped: nothing more is taken, and what is left is not waited for."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the server is stopping")


@dataclass(frozen=True, slots=True)
class AnsweredRows:
    """What the model made of the texts or images of one request.

    Attributes:
        pooled: (n, d) float32, not normalised.
        tokens: that were read of the texts.
        cut: texts of which only the beginning was read.
    """

    pooled: Tensor
    tokens: int = 0
    cut: int = 0


@dataclass(eq=False, slots=True)
class _Job:
    kind: Kind
    items: Sequence[Any]
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    given: int = 0
    rows: list[Tensor] = field(default_factory=list)
    tokens: int = 0
    cut: int = 0

    @property
    def left(self) -> int:
        return len(self.items) - self.given


@dataclass(frozen=True, slots=True)
class _Part:
    job: _Job
    items: Sequence[Any]


class Batcher:
    """One thread that runs the model on what all clients ask.

    Rows of one kind are joined: up to ``rows`` of them, or those that came ``wait_ms`` after the first; a lone request
    after a lone one does not wait for others. A long request is cut into parts, and every waiting request has its share
    of each batch, so that a short one need not wait for it.
    What is asked by a client that went away (its future is cancelled) is not computed. An error hits the request that
    causes it alone.

    Example:
        >>> import tether
        >>> from tether.serve.batching import Batcher
        >>> batcher = Batcher(tether.load("tiny", random_weights=True))
        >>> batcher.texts(["a cat", "a dog"]).result().pooled.shape
        torch.Size([2, 64])
        >>> batcher.close()
        True
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        rows: int = 64,
        wait_ms: float = 4.0,
        queue: int = 4096,
        on_batch: OnBatch | None = None,
    ) -> None:
        """Start the thread.

        Args:
            model: any that ``tether.load`` gives; nobody else may run it from now on.
            rows: of one batch, at most.
            wait_ms: how long a first row waits for others.
            queue: rows that may wait.
            on_batch: told the kind, the rows and the seconds of each batch, in the thread.
        """
        self._model, self._most, self._wait, self._queue = model, rows, wait_ms / 1000, queue
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._alone = True  # nobody but one asked last, and so waiting for others is in vain
        self._rate = 100.0  # rows a second, until it is measured
        self._thread = threading.Thread(target=self._work, name="tether model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        with self._wake:
            return self._count()

    def texts(self, texts: Sequence[str]) -> Future[AnsweredRows]:
        """Embed texts; the future gives ``AnsweredRows``, or an error.

        Raises:
            FullError: too many rows wait.
            StoppingError: ``close`` was called.
        """
        return self._put(_Job("text", texts))

    def images(self, pixels: Sequence[Tensor]) -> Future[AnsweredRows]:
        """Embed images of the model's size, (3, h, w) uint8 each; see ``texts``."""
        return self._put(_Job("image", pixels))

    def call(self, function: Callable[[DualEncoder], Any], *, rows: int = 1) -> Future[Any]:
        """Do something else with the model, as ``rows`` of the queue; the future gives what the function gives."""
        return self._put(_Job("call", [function] * rows))

    def close(self, seconds: float | None = None) -> bool:
        """Finish what was taken and end the thread; nothing more is taken.

        Args:
            seconds: most time; what is left then is refused.

        Returns:
            Whether all was finished.
        """
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return True
        with self._wake:
            left, self._jobs = self._jobs, deque()
        for job in left:
            _fail(job, StoppingError())
        return False

    def _put(self, job: _Job) -> Future[Any]:
        if not job.items:
            job.future.set_result(AnsweredRows(torch.empty(0, self._model.dim)))
            return job.future
        with self._wake:
            if self._closing:
                raise StoppingError
            if self._count() + len(job.items) > self._queue:
                self._drop_gone()
                if (waiting := self._count()) + len(job.items) > self._queue:
                    raise FullError(min(_MOST_WAIT, max(1, math.ceil(waiting / self._rate))))
            self._jobs.append(job)
            if len(self._jobs) == 1 or self._count() >= self._most:
                self._wake.notify_all()  # else the thread waits for others anyway
        return job.future

    def _count(self) -> int:
        return sum(job.left for job in self._jobs)

    def _drop_gone(self) -> None:
        self._jobs = deque(job for job in self._jobs if not job.future.done())

    def _work(self) -> None:
        while parts := self._take():
            start, size = time.monotonic(), sum(len(part.items) for part in parts)
            kind = parts[0].job.kind
            with unheard():  # each client is told of its own texts
                if kind == "call":
                    _call(parts[0].job, self._model)
                else:
                    self._embed(kind, parts)
            seconds = time.monotonic() - start
            self._rate += 0.2 * (size / max(seconds, 1e-4) - self._rate)
            if self._on_batch is not None:
                self._on_batch(kind, size, seconds)

    def _take(self) -> list[_Part]:
        """The parts of the next batch; none when all is done and the end was asked for."""
        with self._wake:
            while True:
                self._drop_gone()
                if not self._jobs:
                    if self._closing:
                        return []
                    self._wake.wait()
                    continue
                self._alone = self._alone and len(self._jobs) == 1
                left = 0.0 if self._alone else self._jobs[0].since + self._wait - time.monotonic()
                if self._jobs[0].kind == "call" or self._closing or left <= 0 or self._count() >= self._most:
                    break
                self._wake.wait(left)
            first, self._alone = self._jobs[0], len(self._jobs) == 1
            if first.kind == "call":
                return [_Part(self._jobs.popleft(), first.items)]
            some = [job for job in self._jobs if job.kind == first.kind][: self._most]
            takes = [min(job.left, max(1, self._most // len(some))) for job in some]
            spare = self._most - sum(takes)
            parts = []
            for job, take in zip(some, takes, strict=True):
                more = min(spare, job.left - take)
                spare -= more
                parts.append(_Part(job, job.items[job.given : job.given + take + more]))
                job.given += take + more
            there = set(map(id, some))
            rest = [job for job in self._jobs if id(job) not in there]
            self._jobs = deque([*rest, *(job for job in some if job.left)])  # the long ones wait behind the others
            return parts

    def _embed(self, kind: Kind, parts: Sequence[_Part]) -> None:
        items = [item for part in parts for item in part.items]
        try:
            pooled = self._pooled(kind, items)
        except BaseException as error:
            if not is_fault(error):
                raise
            if len(parts) == 1:
                _fail(parts[0].job, error)
                return
            for part in parts:  # the error hits the one that caused it
                self._embed(kind, [part])
            return
        for part, rows in zip(parts, pooled.split([len(part.items) for part in parts]), strict=True):
            if not bool(rows.isfinite().all()):
                _fail(part.job, NotFiniteError("an embedding is not finite; the model's weights are damaged"))
                continue
            part.job.rows.append(rows)
            if kind == "text":
                tokens, cut = self._read(part.items)
                part.job.tokens += tokens
                part.job.cut += cut
            if not part.job.left and part.job.future.set_running_or_notify_cancel():
                part.job.future.set_result(AnsweredRows(torch.cat(part.job.rows), part.job.tokens, part.job.cut))

    def _pooled(self, kind: Kind, items: Sequence[Any]) -> Tensor:
        if kind == "text":
            return encode_texts(self._model, items, batch_size=self._most, not_finite="nan")
        shapes = [tuple(one.shape) for one in items]
        found: list[Tensor] = [torch.empty(0)] * len(items)
        for shape in dict.fromkeys(shapes):  # a model of whole patches takes images of several sizes
            places = [place for place, one in enumerate(shapes) if one == shape]
            batch = torch.stack([items[place] for place in places])
            for place, row in zip(places, encode_images(self._model, [batch], not_finite="nan"), strict=True):
                found[place] = row
        return torch.stack(found)

    def _read(self, texts: Sequence[str]) -> tuple[int, int]:
        """How many tokens were read, and how many texts were cut."""
        tokenizer = self._model.tokenizer
        count = lengths(tokenizer(texts))
        full = [texts[place] for place in (count == tokenizer.context_length).nonzero()[:, 0].tolist()]
        return int(count.sum()), sum(not all_whole([text], self._model) for text in full)


def _call(job: _Job, model: DualEncoder) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    try:
        job.future.set_result(job.items[0](model))
    except BaseException as error:
        job.future.set_exception(error)
        if not is_fault(error):
            raise


def _fail(job: _Job, error: BaseException) -> None:
    job.given = len(job.items)
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
