"""Features of rows in Parquet parts, made once: a killed run resumes, and rows that were bad are tried again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tether.core.atomic_io import open_append, parse_json, read_bytes, regular, remove_leftovers
from tether.core.errors import InputError, WriteError
from tether.core.protocols import Source
from tether.core.types import ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.features import parquet
from tether.data.features.making import LocalParts, Making, PartMaker
from tether.data.features.selection import NextRows, SourcePart, Step, divide

LEDGER = "parts.jsonl"
"""What every part holds, a line each; of two lines of one part the later counts."""
_LARGEST = 2**30  # bytes of a ledger


@dataclass(frozen=True, slots=True)
class MadePart:
    """A part on disk.

    Attributes:
        path: Parquet file.
        identity: a short name for the rows it was made of.
        steps: what reading them took.
        rows: rows with features.
        bad: rows without.
        digest: of the file.
    """

    path: Path
    identity: str
    steps: Sequence[Step]
    rows: int
    bad: int
    digest: str


def make_parts(
    source: Source,
    *,
    folder: Path,
    maker: Callable[[int, int | None], PartMaker],
    image_spec: ImageSpec,
    part_rows: int,
    bad_rows: Path,
    limit: int | None = None,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    making: Making | None = None,
    on_part: Callable[[MadePart], None] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> tuple[list[MadePart], int]:
    """Make the features of up to ``limit`` rows, spread over the source, or of all in order.

    What lies in the folder whole and undamaged is not made again, but for rows that could not be read: these are tried
    once more. A run that was killed at any moment resumes, and leaves what an uninterrupted one leaves. Memory holds
    one part. Who calls this holds a lock on the folder, and keeps features of another model or source in another.

    Args:
        source: where rows come from.
        folder: where parts are kept.
        maker: called with a part's number and the number of parts, where the source knows it.
        image_spec: how the model wants its images.
        part_rows: rows of one part: the most that a kill costs.
        bad_rows: JSON-lines log of rows without features, written anew.
        limit: most rows; None takes all.
        batch_size: rows that a maker gets at a time.
        workers: threads that decode ahead.
        strict: stop at the first bad row.
        making: makes the parts elsewhere, and leaves aside ``maker``, ``batch_size`` and ``workers``; None makes them
            here.
        on_part: called with every part that lies there whole, in order.
        on_progress: called with rows done and, where the source knows, rows in all.

    Returns:
        The parts with at least one row, in order; and how many rows have no features.

    Raises:
        InputError: not one good row, or a bad row under ``strict``.
        WriteError: a full disk, no permission; the parts that were finished are kept.
    """
    parts = divide(source, limit=limit, part_rows=part_rows)
    known = parts if isinstance(parts, list) else None
    count = None if known is None else len(known)
    making = making or LocalParts(maker, image_spec=image_spec, batch_size=batch_size, workers=workers, parts=count)
    run = _Run(making, folder=folder, account=BadRows.anew(source.name, path=bad_rows, strict=strict))
    if on_progress is not None:
        total = None if known is None else sum(part.rows for part in known)
        run.tell = lambda done: on_progress(done, total)
    if on_part is not None:
        run.follow = on_part
    for number, part in enumerate(parts):
        run.begin(number, part)
    run.settle()
    if not run.found:
        raise InputError(f"{source.name}: {run.account.nothing_good()}")
    return run.found, run.bad


@dataclass(frozen=True, slots=True)
class _Open:
    """A part that was begun, and what lies on disk of it."""

    number: int
    path: Path
    identity: str
    entry: MadePart | None
    keys: list[str]


class _Run:
    """The parts of one run, finished in order, so that of two rows of one key the first is kept."""

    def __init__(self, making: Making, *, folder: Path, account: BadRows) -> None:
        remove_leftovers(folder)
        self.account, self.found, self.bad = account, list[MadePart](), 0
        self.tell: Callable[[int], None] = lambda done: None
        self.follow: Callable[[MadePart], None] = lambda part: None
        self._making, self._folder, self._ledger = making, folder, _Ledger(folder / LEDGER)
        self._known: set[str] = set()
        self._open: deque[_Open] = deque()
        self._done = 0

    def begin(self, number: int, part: SourcePart | NextRows) -> None:
        """Take what lies there of a part, or have it made."""
        path = self._folder / f"part-{number:05d}.parquet"
        entry = self._ledger.kept(path, part.identity)
        if entry is not None:
            self.settle()  # what comes before it decides whether its rows stand
        keys = [] if entry is None else parquet.keys_in(path)
        if entry is not None and entry.rows != len(keys):
            entry, keys = None, []
        if not self._known.isdisjoint(keys):  # a part before it has come back since
            entry, keys = None, []
        if entry is not None and not entry.bad:
            part.pass_over(entry.steps)
            self.account.tried(part.rows)
            self._close(entry, keys, rows=part.rows)
            return
        self._making.begin(number, part, kept=set(keys))
        self._open.append(_Open(number, path, part.identity, entry, keys))
        self.settle(leave=self._making.ahead)

    def settle(self, *, leave: int = 0) -> None:
        """Finish the parts that were begun first, until so many are left."""
        while len(self._open) > leave:
            self._finish(self._open.popleft())

    def _finish(self, part: _Open) -> None:
        entry, keys = part.entry, part.keys
        self.account.tried(len(keys))  # good before; only the others are read again
        made = self._making.finish(
            part.number, known=self._known, account=self.account, tell=lambda done: self.tell(self._done + done)
        )
        new = made.table
        if entry is None or (new is not None and new.num_rows):
            table = _in_order(made.order, [*([part.path] if entry else []), *([] if new is None else [new])])
            if table is None:
                entry, keys = None, []
            else:
                parquet.write(table, part.path)
                keys = table.column("key").to_pylist()
                lost = made.count - len(keys)
                entry = MadePart(part.path, part.identity, made.steps, len(keys), lost, part_digest(part.path))
                self._ledger.add(entry)
        self.bad += made.count - len(keys)
        self._close(entry, keys, rows=made.rows)

    def _close(self, entry: MadePart | None, keys: list[str], *, rows: int) -> None:
        self._known.update(keys)
        if entry is not None:
            self.found.append(entry)
            self.follow(entry)
        self._done += rows
        self.tell(self._done)


class _Ledger:
    """The file that says what every part holds; a line that a crash cut off is none, and its part is made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, MadePart] = {}
        if path.is_file():
            for line in read_bytes(path, limit=_LARGEST).decode(errors="replace").split("\n"):
                with contextlib.suppress(InputError, KeyError, TypeError, ValueError, OverflowError):
                    said = parse_json(line, where=str(path))
                    steps = tuple((int(block), int(rows), bool(ended)) for block, rows, ended in said["steps"])
                    numbers = int(said["rows"]), int(said["bad"])
                    part = path.with_name(str(said["path"]))
                    self._entries[part.name] = MadePart(part, said["identity"], steps, *numbers, said["digest"])

    def kept(self, path: Path, identity: str) -> MadePart | None:
        """What is known of a part that lies there whole, with these rows."""
        entry = self._entries.get(path.name)
        if entry is None or entry.identity != identity or not path.is_file() or part_digest(path) != entry.digest:
            return None
        return entry

    def add(self, entry: MadePart) -> None:
        try:
            with open_append(self._path) as file:
                file.write("\n" + json.dumps({**asdict(entry), "path": entry.path.name}))
        except OSError as error:
            raise WriteError(self._path, error, safe="the parts that were finished are kept") from error


def part_digest(path: Path) -> str:
    """16 hex digits of BLAKE2b over a part's bytes."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _in_order(order: Sequence[str], tables: Sequence[Path | pa.Table]) -> pa.Table | None:
    """The rows of what was kept and what is new, in the order of the source."""
    read = [parquet.read(one) if isinstance(one, Path) else one for one in tables]
    if not sum(one.num_rows for one in read):
        return None
    if len(read) == 1:
        return read[0]
    kinds = parquet.widest([one.schema for one in read])
    table = pa.concat_tables([parquet.cast(one, kinds) for one in read])
    places = pc.index_in(table.column("key").combine_chunks(), value_set=pa.array(order, pa.string()))
    return table.take(pc.sort_indices(places)).replace_schema_metadata(read[-1].schema.metadata)
