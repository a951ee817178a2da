"""Features of parts made by workers of a Ray cluster; this process alone reads the order of rows and writes files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tether.core.errors import InputError, reason_of
from tether.core.protocols import Source
from tether.core.types import Block, ImageSpec, Row
from tether.data.bad_rows import BadRows
from tether.data.blocks import IndexedSource
from tether.data.features.making import DUPLICATE, Made, PartMaker, PartReader
from tether.data.features.ray_crew import RayCrew
from tether.data.features.selection import NextRows, Piece, SourcePart, Step
from tether.data.in_order import ordered
from tether.data.paths import anchor, is_url

_AHEAD = 2
"""Parts for each worker that are begun before the first one is written."""
_BEGUN_WITHIN = 2
"""Blocks of at most so many parts' rows are read by the workers, from their first row even for a part in the middle."""


class KeptMaker(PartMaker, Protocol):
    """Keeps what it made of each row, so that the table can be written elsewhere, and without some of them.

    Attributes:
        items: the row, without its image, and what was made of it.
    """

    items: list[tuple[Row, Any]]


class MakerThere(Protocol):
    """Gives makers on a worker; it travels there."""

    def begin(self) -> None:
        """Get ready, once in every worker."""

    def maker(self) -> KeptMaker:
        """For one part."""
        ...


@dataclass(slots=True)
class ReadRows:
    """Rows of a part that were read before they travel: of each block its rows, and why it broke off."""

    name: str
    version: str
    read_blocks: Sequence[tuple[str, Sequence[Row], str]]

    def blocks(self) -> Sequence[Block]:
        """Those of the part."""
        return [Block(name, len(rows)) for name, rows, _ in self.read_blocks]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of a block, and its break."""
        _, rows, error = next(one for one in self.read_blocks if one[0] == block.id)
        yield from rows[start:]
        if error:
            raise InputError(error)


@dataclass(frozen=True, slots=True)
class _Job:
    """A part and the keys that have features; the part are rows, or pieces of the source that the workers have."""

    part: ReadRows | Sequence[Piece]
    kept: Set[str]


@dataclass(frozen=True, slots=True)
class _Told:
    """What a worker made: its items, keys that it read, how many rows, and what it had to say of them, in order."""

    items: Sequence[tuple[Row, Any]]
    order: Sequence[str]
    count: int
    said: Sequence[int | tuple[str, str]]


class _Said(BadRows):
    """Writes down what is said of rows, for the account of whoever asked."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.said: list[int | tuple[str, str]] = []

    def tried(self, rows: int) -> None:
        self.said.append(rows)

    def add(self, key: str, reason: str) -> None:
        self.said.append((key, reason))


@dataclass
class PartWork:
    """What a worker does with parts.

    Attributes:
        makers: gives its makers.
        image_spec: how the model wants its images.
        batch_size: rows that a maker gets at a time.
        threads: that torch computes with.
        source: for parts that it reads itself, or None.
        folder: where relative paths begin, empty where no file of this machine is read.
        seen: a file or folder that it must see, or empty.
    """

    makers: MakerThere
    image_spec: ImageSpec
    batch_size: int
    threads: int
    source: Source | None = None
    folder: str = ""
    seen: str = ""

    def begin(self) -> None:
        """Stand in the folder and load the model.

        Raises:
            InputError: the files are not there.
        """
        import torch

        try:
            if self.folder:
                os.chdir(self.folder)
            if self.seen:
                Path(self.seen).stat()
        except OSError as error:
            raise InputError(
                f"{error.filename}: {reason_of(error)}; every worker must see the data under the same path"
            ) from error
        torch.set_num_threads(self.threads)
        self.makers.begin()

    def do(self, job: _Job) -> _Told:
        """Read and make one part."""
        part = job.part
        if not isinstance(part, ReadRows):
            assert self.source is not None
            part = SourcePart.of(self.source, part)
        reader, maker, said = PartReader(part, kept=job.kept, known=frozenset()), self.makers.maker(), _Said(part.name)
        for rows, pixels in ordered(
            reader, image_spec=self.image_spec, batch_size=self.batch_size, workers=1, on_bad=said
        ):
            maker.add(rows, pixels, refuse=said.add)
        return _Told(maker.items, list(reader.order), reader.count, said.said)


class RemoteParts:
    """Makes parts with Ray's workers, as many at a time as there are workers, and a second one for each.

    A worker opens the source's rows itself where they are found by number (images in a folder, rows of a CSV file), or
    where its blocks are small; of tars and large Parquet row groups the rows are read here, in order, and sent to it.
    What it says of bad rows is written into the account here, in the order of the source.

    Attributes:
        ahead: parts that are begun before the first one is finished.
    """

    def __init__(
        self,
        ray: Any,
        work: PartWork,
        *,
        source: Source,
        part_rows: int,
        maker: Callable[[], KeptMaker],
        workers: int,
        cpus: int,
        gpus: int,
    ) -> None:
        """Ask for the workers.

        Args:
            ray: the module, connected.
            work: what they do; its source, folder and the file that it must see are set here.
            source: where rows come from.
            part_rows: rows of one part.
            maker: makes the table of items that were made there.
            workers: how many.
            cpus: processors that each takes.
            gpus: GPUs that each takes.

        Raises:
            InputError: see ``RayCrew``.
        """
        here = not is_url(source.name)
        work.folder = str(Path.cwd()) if here else ""
        place = Path(anchor(source.name)) if here else None
        work.seen = str(place) if place is not None and place.exists() else ""
        work.source = source if _readable_there(source, part_rows=part_rows, ray=ray) else None
        self.ahead = _AHEAD * workers
        self._there, self._maker, self._name = work.source is not None, maker, source.name
        self._reach: dict[int, tuple[int, Sequence[Step]]] = {}
        self._called: dict[int, str] = {}
        self._crew = RayCrew(ray, work, workers=workers, cpus=cpus, gpus=gpus, named=self._called.__getitem__)

    def begin(self, number: int, part: SourcePart | NextRows, *, kept: Set[str]) -> None:
        """Send it to a worker; its rows are read here first, if nobody else can."""
        job = _Job(part.pieces if self._there and isinstance(part, SourcePart) else _read(part), kept)
        self._reach[number] = part.rows, part.steps
        first = _first_key(job.part)
        self._called[number] = f"part {number} of {self._name} ({part.rows:,} rows{first})"
        self._crew.give(number, job)

    def finish(self, number: int, *, known: Set[str], account: BadRows, tell: Callable[[int], None]) -> Made:
        """Wait for it; rows whose key came before are left out, and named."""
        told: _Told = self._crew.answer(number)
        twice = {key: None for key in told.order if key in known}
        for said in told.said:
            if isinstance(said, int):
                account.tried(said)
            elif said[0] in twice:
                account.add(said[0], DUPLICATE)
            else:
                account.add(*said)
        named = {said[0] for said in told.said if not isinstance(said, int)}
        for key in twice:
            if key not in named:
                account.add(key, DUPLICATE)
        maker = self._maker()
        maker.items = [item for item in told.items if item[0].key not in twice]
        rows, steps = self._reach.pop(number)
        del self._called[number]
        return Made(maker.table() if maker.items else None, told.order, told.count, rows, steps)

    def close(self) -> None:
        """End the workers."""
        self._crew.close()


def _readable_there(source: Source, *, part_rows: int, ray: Any) -> bool:
    """Whether a worker can open the source's rows, from any on and without reading much before it."""
    if source.name.startswith("memory://"):  # of this process alone
        return False
    small = (block.rows is not None and block.rows <= _BEGUN_WITHIN * part_rows for block in source.blocks())
    if not isinstance(source, IndexedSource) and not all(small):
        return False
    try:
        ray.cloudpickle.dumps(source)
    except Exception:  # a source of somebody else's may hold anything
        return False
    return True


def _read(part: SourcePart | NextRows) -> ReadRows:
    found = []
    for block in part.blocks():
        rows, error = list[Row](), ""
        try:
            for row in part.read(block):
                rows.append(row)
        except InputError as broken:
            error = str(broken)
        found.append((block.id, rows, error))
    return ReadRows(part.name, part.version, found)


def _first_key(part: ReadRows | Sequence[Piece]) -> str:
    if not isinstance(part, ReadRows):
        return f", from row {part[0].start:,} of block {part[0].block.id!r}"
    key = next((row.key for _, rows, _ in part.read_blocks for row in rows), None)
    return "" if key is None else f", the first {key!r}"
