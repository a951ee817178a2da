"""Training batches out of a source: shuffled, shared among processes, and resumable in the middle of an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tether.core.errors import InputError
from tether.core.protocols import Source, Tokenizer
from tether.core.types import Batch, ImageSpec, Row
from tether.data.bad_rows import BadRows
from tether.data.captions import CaptionPick
from tether.data.collate import Assembler
from tether.data.in_order import loader_threads
from tether.data.shuffle import Draft, Position, acceptor, full_order, until_broken, window_order

if TYPE_CHECKING:
    from tether.data.augment import Augment
    from tether.data.contents import BatchContents

MEMORY = 1 << 30
"""Bytes of rows held to shuffle them as a whole; a larger source is shuffled in windows."""
WINDOW_ROWS = 16_384
_ROW_OVERHEAD = 250
"""Bytes of a row's Python objects, roughly, without what its values need."""
_OBJECT = 50


class Loader:
    """An endless iterator of ``Batch``: uint8 images at the model's size and trimmed token ids.

    The rows of a batch, their captions and their augmentation depend on the source, the seed and the epoch alone.
    Worker threads, the number of processes and interruptions change nothing: process r of w takes the r-th
    contiguous share of every global batch, and ``state_dict`` continues bit for bit.

    A source of up to ``memory`` bytes is read once and each epoch is a full permutation; its images are decoded
    once and kept as a tensor if that fits as well. A larger one is streamed: see ``data/shuffle.py``.

    A row whose image cannot be opened is logged and replaced in its batch by another row of the
    same epoch, drawn from a hash of its position; the batch keeps its size.

    ``Batch.extra`` holds ``keys`` (list of str), ``texts`` (the captions used) and ``ids`` ((b,) int64, equal for
    rows of one batch with equal captions). Where every row of a batch has ``negative_text`` in its meta, a caption that
    is nearly right, or ``negative_image``, an image that is, extra holds their tokens (b, l) and pixels under these
    names. A row whose negative image cannot be opened is a bad row. Columns ``findings``, ``text_findings``,
    ``study``, ``patient`` and ``label`` travel along likewise, see ``data.collate.facts_of``. What ``contents`` adds is
    said there.

    Attributes:
        bad: the account of skipped rows.
        rows: good rows of one epoch, or None when streaming.
        batches_per_epoch: whole batches of one epoch, or None when streaming.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        image_spec: ImageSpec,
        tokenizer: Tokenizer,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        caption: Literal["random", "first"] | CaptionPick = "random",
        augment: Augment | None = None,
        contents: BatchContents | None = None,
        on_bad: Path | None = None,
        strict: bool = False,
        memory: int = MEMORY,
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        """Read the source's rows, or find that it must be streamed.

        Args:
            source: where rows come from.
            batch_size: rows of one *global* batch, over all processes.
            image_spec: how the model wants its images.
            tokenizer: text to ids.
            seed: of order, captions and augmentation.
            rank: this process.
            world: number of processes; it must divide ``batch_size``.
            workers: threads that decode ahead; 0 decodes when asked.
            caption: ``random`` draws one of a row's captions, ``first`` takes the first, a callable chooses.
            augment: changes uint8 batches, or None.
            contents: what a batch holds besides: views, further captions, regions, latents; None is plain pairs.
            on_bad: JSON-lines log of bad rows.
            strict: raise at the first bad row instead of skipping it.
            memory: bytes of rows, and of decoded images, that may be held.
            window_rows: rows of one window when streaming.

        Raises:
            InputError: the source is empty, has fewer good rows than a batch, or the sizes do not divide; no such
                labels as the contents ask for.
        """
        if batch_size < 1 or world < 1 or batch_size % world or not 0 <= rank < world:
            raise InputError(
                f"batch_size={batch_size} must be a multiple of world={world} >= 1, and 0 <= rank={rank} < world"
            )
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self._window_rows, self._workers = window_rows, workers
        self.bad = BadRows(source.name, path=on_bad, strict=strict)
        self._need_image = contents is None or contents.images
        self._labels = None if contents is None or contents.labels is None else contents.labels.digest()
        held = _hold(source, memory=memory, bad=self.bad, need_image=self._need_image)
        if held is not None and len(held) < batch_size:
            what = "the data set is empty" if not held and not self.bad.seen else f"only {len(held)} good rows"
            why = f" ({self.bad.seen} bad ones, the latest: {self.bad.latest})" if self.bad.seen else ""
            raise InputError(f"{source.name}: {what}; one batch needs {batch_size} (batch_size){why}")
        self._held = held
        self.rows = None if held is None else len(held)
        self.batches_per_epoch = None if held is None else len(held) // batch_size
        self._assembler = Assembler(
            image_spec=image_spec,
            tokenizer=tokenizer,
            seed=seed,
            share=(rank * batch_size // world, (rank + 1) * batch_size // world),
            caption=caption,
            augment=augment,
            contents=contents,
            bad=self.bad,
            held=held,
            memory=memory,
        )
        self._position = Position()
        self._running: Iterator[tuple[Batch, Position]] | None = None

    @property
    def epoch(self) -> int:
        """Passes that are finished; when streaming it may count one batch late, since only reading finds the end."""
        return self._position.epoch

    def __iter__(self) -> Loader:
        """The loader itself: there is one position."""
        return self

    def __next__(self) -> Batch:
        """The next batch; there always is one."""
        if self._running is None:
            self._running = self._run()
        batch, self._position = next(self._running)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Plain values that continue after the last batch handed out, equal in every process."""
        return {**asdict(self._position), **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another loader of the same settings stopped; the number of processes may differ.

        Raises:
            InputError: the state is of another source, seed, batch size or order.
        """
        for key, mine in self._identity().items():
            if state.get(key) != mine and key == "version" and state.get("source") == self.source.name:
                raise InputError(
                    f"{self.source.name}: not the version that the run began with: its files have changed, or how they "
                    "are read; put them back to go on, or train anew into another folder"
                )
            if state.get(key) != mine:
                raise InputError(f"the data position is of {key} {state.get(key)!r}, this run has {mine!r}")
        self.close()
        self._position = Position(*(int(state[key]) for key in ("epoch", "window", "block", "row", "batch")))

    def close(self) -> None:
        """Stop the threads; the position stays, and the next batch starts them again."""
        if self._running is not None:
            self._running.close()  # pyrefly: ignore[missing-attribute] - it is a generator
            self._running = None

    def _identity(self) -> dict[str, Any]:
        return {
            "source": self.source.name,
            "version": self.source.version,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "order": "full" if self._held is not None else f"windows of {self._window_rows}",
            **({} if self._labels is None else {"labels": self._labels}),
        }

    def _drafts(self) -> Iterator[Draft]:
        if self._held is not None:
            return full_order(self._held, self._position, batch_size=self.batch_size, seed=self.seed)
        return window_order(
            self.source,
            self._position,
            batch_size=self.batch_size,
            window_rows=self._window_rows,
            seed=self.seed,
            bad=self.bad,
            need_image=self._need_image,
        )

    def _run(self) -> Iterator[tuple[Batch, Position]]:
        drafts = self._drafts()
        if self._workers == 0:
            for draft in drafts:
                yield self._assembler(draft), draft.after
            return
        with loader_threads(self._workers) as pool:
            waiting: deque[tuple[Future[Batch], Position]] = deque()
            while True:
                for draft in islice(drafts, self._workers + 1 - len(waiting)):
                    waiting.append((pool.submit(self._assembler, draft), draft.after))
                future, after = waiting.popleft()
                yield future.result(), after


def _hold(source: Source, *, memory: int, bad: BadRows, need_image: bool) -> list[Row] | None:
    """All good rows, or None when they need more than ``memory`` bytes."""
    rows: list[Row] = []
    size = 0
    accept = acceptor(bad, need_text=True, need_image=need_image)
    for block in source.blocks():
        for row in until_broken(source, block, bad=bad):
            if not accept(row):
                continue
            row = row if need_image else replace(row, image=None)
            rows.append(row)
            size += _ROW_OVERHEAD + sum(map(_size, (row.image, row.texts, row.meta)))
            if size > memory:
                return None
    return rows


def _size(value: object) -> int:
    """Bytes in memory, roughly."""
    if isinstance(value, (bytes, str)):
        return len(value) + _OBJECT
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return _OBJECT + sum(_OBJECT + _size(each) for each in value.values())
    return _OBJECT + sum(map(_size, value)) if isinstance(value, (list, tuple)) else _OBJECT


class SideBySide:
    """An endless iterator of batches for steps that learn from two data sets in one step.

    A batch is the first loader's, with all that the second's holds in ``extra``: its images (if it has some) under
    ``PREFIX_image``, its token ids under ``PREFIX_text``, and what its own ``extra`` has under ``PREFIX_NAME``. Both
    resume: ``state_dict`` holds both positions.

    Attributes:
        source: that of the first.
        rows: those of the first.
    """

    def __init__(self, first: Loader | SideBySide, *, second: Loader, prefix: str) -> None:
        """Take two loaders.

        Args:
            first: whose batches these are; it may be two already.
            second: what travels along.
            prefix: of its names, such as ``long``.
        """
        if not prefix.isidentifier():
            raise InputError(f"prefix: expected a name, got {prefix!r}")
        self.first, self.second, self.prefix = first, second, prefix
        self.source, self.rows = first.source, first.rows

    def __iter__(self) -> Iterator[Batch]:
        """The pair itself: there is one position."""
        return self

    def __next__(self) -> Batch:
        """The next batch of both."""
        batch, other = next(self.first), next(self.second)
        held = {"text": other.text, **({"image": other.image} if other.image.numel() else {}), **other.extra}
        return replace(batch, extra={**batch.extra, **{f"{self.prefix}_{name}": held[name] for name in held}})

    def state_dict(self) -> dict[str, Any]:
        """Both positions, plain values."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another one of the same settings stopped."""
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])

    def close(self) -> None:
        """Stop the threads of both."""
        self.first.close()
        self.second.close()
