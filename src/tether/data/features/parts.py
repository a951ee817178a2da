"""Features of rows in Parquet parts, made once: a killed run resumes, and rows that were bad are tried again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from tether.core.atomic_io import open_append, parse_json, read_bytes, remove_leftovers
from tether.core.errors import InputError, WriteError
from tether.core.printable import encodable
from tether.core.protocols import Source
from tether.core.types import Block, ImageSpec, Row
from tether.data.bad_rows import BadRows
from tether.data.features import parquet
from tether.data.features.selection import NextRows, SourcePart, Step, divide
from tether.data.loader import ordered

LEDGER = "parts.jsonl"
"""What every part holds, a line each; of two lines of one part the later counts."""
_LARGEST = 2**30  # bytes of a ledger

Refuse = Callable[[str, str], None]
"""Called with the key of a row that has no features, and why."""


class PartMaker(Protocol):
    """Makes the features of the rows of one part."""

    def add(self, rows: list[Row], pixels: Tensor, *, refuse: Refuse) -> None:
        """The next rows and their images."""

    def table(self) -> pa.Table:
        """All rows that were added and not refused, in order, with ``key`` and other columns."""


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
        on_progress: called with rows done and, where the source knows, rows in all.

    Returns:
        The parts with at least one row, in order; and how many rows have no features.

    Raises:
        InputError: not one good row, or a bad row under ``strict``.
        WriteError: a full disk, no permission; the parts that were finished are kept.
    """
    tell = on_progress or (lambda done, total: None)
    parts = divide(source, limit=limit, part_rows=part_rows)
    count = len(parts) if isinstance(parts, list) else None
    total = sum(part.rows for part in parts) if isinstance(parts, list) else None
    remove_leftovers(folder)
    account = BadRows.anew(source.name, path=bad_rows, strict=strict)
    ledger = _Ledger(folder / LEDGER)
    known: set[str] = set()
    found: list[MadePart] = []
    done = bad = 0
    for number, part in enumerate(parts):
        path = folder / f"part-{number:05d}.parquet"
        entry = ledger.kept(path, part.identity)
        keys = [] if entry is None else parquet.keys_in(path)
        if not known.isdisjoint(keys):  # a part before it has come back since
            entry, keys = None, []
        if entry is not None and not entry.bad:
            part.pass_over(entry.steps)
            account.tried(part.rows)
        else:
            account.tried(len(keys))  # good before; only the others are read again
            reader = _Reader(part, kept=set(keys), known=known)
            made, tried = maker(number, count), 0
            for rows, pixels in ordered(
                reader, image_spec=image_spec, batch_size=batch_size, workers=workers, on_bad=account
            ):
                tell(done + tried, total)
                made.add(rows, pixels, refuse=account.add)
                tried += len(rows)
            new = made.table() if tried else None
            if entry is None or (new is not None and new.num_rows):
                table = _in_order(list(reader.order), [*([path] if entry else []), *([] if new is None else [new])])
                if table is None:
                    entry, keys = None, []
                else:
                    parquet.write(table, path)
                    keys = table.column("key").to_pylist()
                    lost = reader.count - len(keys)
                    entry = MadePart(path, part.identity, part.steps, len(keys), lost, _digest(path))
                    ledger.add(entry)
            bad += reader.count - len(keys)
        known.update(keys)
        if entry is not None:
            found.append(entry)
        done += part.rows
        tell(done, total)
    if not found:
        raise InputError(f"{source.name}: {account.nothing_good()}")
    return found, bad


class _Reader:
    """A part without the rows that are kept, as a source; a key that came before is a bad row."""

    def __init__(self, part: SourcePart | NextRows, *, kept: set[str], known: set[str]) -> None:
        self.name, self.version = part.name, part.version
        self._part, self._kept, self._known = part, kept, known
        self.order: dict[str, None] = {}  # keys as they come, once each
        self.count = 0  # rows read, and breaks

    def blocks(self) -> Sequence[Block]:
        return self._part.blocks()

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        try:
            for row in self._part.read(block, start=start):
                row = replace(row, key=encodable(row.key), texts=tuple(map(encodable, row.texts)))
                self.count += 1
                if row.key in self._known or row.key in self.order:
                    yield replace(row, bad="duplicate key; the first row of that key is kept")
                    continue
                self.order[row.key] = None
                if row.key not in self._kept:
                    yield row
        except InputError:
            self.count += 1
            raise


class _Ledger:
    """The file that says what every part holds; a line that a crash cut off is none, and its part is made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, MadePart] = {}
        if path.is_file():
            for line in read_bytes(path, limit=_LARGEST).decode(errors="replace").split("\n"):
                with contextlib.suppress(InputError, KeyError, TypeError, ValueError):
                    said = parse_json(line, where=str(path))
                    steps = tuple((int(block), int(rows), bool(ended)) for block, rows, ended in said["steps"])
                    numbers = int(said["rows"]), int(said["bad"])
                    part = path.with_name(str(said["path"]))
                    self._entries[part.name] = MadePart(part, said["identity"], steps, *numbers, said["digest"])

    def kept(self, path: Path, identity: str) -> MadePart | None:
        """What is known of a part that lies there whole, with these rows."""
        entry = self._entries.get(path.name)
        if entry is None or entry.identity != identity or not path.is_file() or _digest(path) != entry.digest:
            return None
        return entry

    def add(self, entry: MadePart) -> None:
        try:
            with open_append(self._path) as file:
                file.write("\n" + json.dumps({**asdict(entry), "path": entry.path.name}))
        except OSError as error:
            raise WriteError(self._path, error, safe="the parts that were finished are kept") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
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
