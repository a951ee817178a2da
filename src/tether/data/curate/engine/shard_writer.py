"""One written piece: kept rows with their kept captions as Parquet or as a WebDataset tar, and what was dropped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from tether.core.errors import InputError, WriteError
from tether.core.printable import csv_cell
from tether.data.curate.engine.batch import ALIVE, PairBatch
from tether.data.curate.engine.step import IMAGE, ColumnStep
from tether.data.curate.pools.pool import Pool, Rows

Format = Literal["parquet", "webdataset"]
FORMATS: tuple[Format, ...] = ("parquet", "webdataset")
STATE = ".curate"
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "text", "step", "reason")])
FLAGGED_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("key", "text", "step", "label")), pa.field("score", pa.float64())]
)


class Shard:
    """Takes the batches of a piece as they leave the last step.

    Everything is written under a passing name in the state's folder and moved when it is whole.
    """

    def __init__(
        self,
        *,
        out: Path,
        piece: int,
        pool: Pool,
        written_as: Format,
        several: bool,
        names: Mapping[int, str],
        columns: Sequence[tuple[str, ColumnStep]],
        reason: Callable[[int], tuple[str, str]],
        licence: str | None,
        raw_csv: bool,
    ) -> None:
        """Start a piece.

        Args:
            out: the folder of the result.
            piece: its number.
            pool: where rows come from.
            written_as: form of the result.
            several: whether a caption may have become several, so that a column of texts becomes one of lists.
            names: of the flag steps by number.
            columns: names and steps that add columns.
            reason: step and reason of a fate.
            licence: column whose values are counted.
            raw_csv: lists hold texts as they are, formulas included.
        """
        self._out, self._stem, self._pool = out, f"part-{piece:06d}", pool
        self._several, self._names, self._reason, self._licence = several, names, reason, licence
        self._columns = columns
        kind = {"parquet": _Parquet, "webdataset": _Tar}[written_as]
        (out / STATE).mkdir(parents=True, exist_ok=True)
        self._buffer = out / STATE / f"writing-{self._stem}-{uuid4().hex}"
        self._name = f"{self._stem}.{'parquet' if written_as == 'parquet' else 'tar'}"
        self._writer: _Writer = kind(self._buffer, pool=pool, stem=f"{piece:06d}")
        # Not Parquet: whoever opens the folder as a data set shall not find these rows again.
        self._dropped = _Csv(self._buffer.with_suffix(".dropped"), DROPPED_SCHEMA, raw=raw_csv)
        self._flagged = _Csv(self._buffer.with_suffix(".flagged"), FLAGGED_SCHEMA, raw=raw_csv)
        self._digest = hashlib.sha256()
        self._labels: dict[int, Counter[str]] = {}
        self._licences: dict[str, list[int]] = {}
        self._rows = self._pairs = 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(self._out / self._name, error, safe="nothing of it was left there") from error

    def add(self, rows: Rows, batch: PairBatch) -> None:
        """Take the rows of a batch, read with all their columns.

        Raises:
            WriteError: for instance a full disk.
        """
        with self._writing():
            self._add(rows, batch)

    def _add(self, rows: Rows, batch: PairBatch) -> None:
        table = rows.table
        assert table is not None
        alive = batch.fate == ALIVE
        kept = np.unique(batch.row[alive])
        if self._licence:
            self._count_licences(rows.extra[self._licence], np.unique(batch.row[batch.fate != -2]), kept)
        if len(kept):
            self._write(rows, table, kept, batch, alive)
        lost = np.flatnonzero(batch.fate >= 0)
        if len(lost):
            taken = batch.pairs.take(pa.array(lost))
            marks = {mark: self._reason(int(mark)) for mark in np.unique(batch.fate[lost])}
            named = [marks[mark] for mark in batch.fate[lost]]
            columns = [taken.column("key"), taken.column("text"), *map(pa.array, zip(*named, strict=True))]
            self._dropped.add(pa.record_batch(columns, schema=DROPPED_SCHEMA))
        for number, flags in batch.flags.items():
            places = np.flatnonzero(alive & np.asarray(flags.labels.is_valid()))
            at, name = pa.array(places), self._names[number]
            labels = flags.labels.take(at)
            self._labels.setdefault(number, Counter()).update(labels.to_pylist())
            scores = flags.scores[places]
            seen = batch.pairs.take(at)
            columns = [seen.column("key"), seen.column("text"), pa.array([name] * len(places), pa.string()), labels,
                       pa.array(scores, mask=np.isnan(scores))]  # fmt: skip
            self._flagged.add(pa.record_batch(columns, schema=FLAGGED_SCHEMA))

    def _count_licences(self, column: pa.Array, good: np.ndarray, kept: np.ndarray) -> None:
        for place, rows in enumerate((good, kept)):
            names = Counter(map(_licence, column.take(pa.array(rows)).to_pylist()))
            for name, count in names.items():
                self._licences.setdefault(name, [0, 0])[place] += count

    def _write(self, rows: Rows, table: pa.Table, kept: np.ndarray, batch: PairBatch, alive: np.ndarray) -> None:
        real = alive & np.asarray(batch.pairs.column("text").is_valid())
        texts = batch.pairs.column("text").filter(pa.array(real))
        sizes = np.bincount(batch.row[real], minlength=len(rows.keys))[kept]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
        chosen = self._with_captions(table.take(pa.array(kept)), lists, sizes)
        keys = rows.keys.take(pa.array(kept)).to_pylist()
        for name, step in self._columns:
            read = {column: rows.extra[column].take(pa.array(kept)) for column in step.columns}
            made = step.columns_of(pa.record_batch(read), lists)
            if made.num_rows != len(kept) or made.schema != step.adds:
                raise InputError(
                    f"{name}: expected {len(kept)} rows of {step.adds}, got {made.num_rows} of {made.schema}"
                )
            for field, column in zip(made.schema, made.columns, strict=True):
                chosen = chosen.append_column(field, column)
        image = rows.extra[IMAGE].take(pa.array(kept)) if IMAGE in rows.extra else None
        self._writer.add(chosen, keys=keys, lists=lists, images=image)
        # Row by row, so that the digest does not depend on how many rows are read at once.
        edges, words = offsets.tolist(), texts.to_pylist()
        for number, key in enumerate(keys):
            self._digest.update("\x00".join([key, *words[edges[number] : edges[number + 1]], "\x01"]).encode())
        self._rows += len(kept)
        self._pairs += int(real.sum())

    def _with_captions(self, table: pa.Table, lists: pa.ListArray, sizes: np.ndarray) -> pa.Table:
        index = table.schema.get_field_index(self._pool.captions_column)
        wanted = table.schema.field(index)
        if pa.types.is_list(wanted.type) or pa.types.is_large_list(wanted.type):
            return table.set_column(index, wanted, lists.cast(wanted.type))
        if self._several:
            return table.set_column(index, pa.field(wanted.name, lists.type), lists)
        place = np.cumsum(sizes) - sizes
        texts = lists.flatten().take(pa.array(place, pa.int64(), mask=sizes == 0))
        return table.set_column(index, wanted, texts.cast(wanted.type))

    def close(self) -> dict[str, Any]:
        """Move everything to its place; returns what the manifest says of it.

        Raises:
            WriteError: for instance a full disk.
        """
        with self._writing():
            self._dropped.close(self._out / "dropped" / f"{self._stem}.csv")
            self._flagged.close(self._out / "flagged" / f"{self._stem}.csv")
            self._writer.close()
            if self._rows:
                _move(self._buffer, self._out / self._name)
        found: dict[str, Any] = {
            "file": None,
            "rows": self._rows,
            "pairs": self._pairs,
            "sha256": self._digest.hexdigest(),
        }
        if self._rows:
            found["file"] = self._name
        return found

    def notes(self) -> dict[str, Any]:
        """Labels of kept pairs by number of the flag step, and rows by licence in the pool and in what is kept."""
        return {"labels": self._labels, "licences": self._licences}

    def abandon(self) -> None:
        """Remove what was half written."""
        self._dropped.abandon()
        self._flagged.abandon()
        _remove(self._writer.close, self._buffer)


def _licence(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


class _Csv:
    """A list beside the shard, written as it comes and only if something does."""

    def __init__(self, buffer: Path, schema: pa.Schema, *, raw: bool) -> None:
        self._buffer, self._schema, self._raw = buffer, schema, raw
        self._file: csv.CSVWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._file = self._file or csv.CSVWriter(self._buffer, self._schema)
            self._file.write_batch(batch if self._raw else _guarded(batch))

    def close(self, path: Path) -> None:
        if self._file is not None:
            self._file.close()
            _move(self._buffer, path)

    def abandon(self) -> None:
        if self._file is not None:
            _remove(self._file.close, self._buffer)


def _guarded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Texts that a spreadsheet would run as formulas get an apostrophe before them."""
    columns = [
        pa.array([cell and csv_cell(cell) for cell in column.to_pylist()], column.type)
        if pa.types.is_string(column.type)
        else column
        for column in batch.columns
    ]
    return pa.record_batch(columns, schema=batch.schema)


def _remove(close: Callable[[], None], buffer: Path) -> None:
    try:
        close()
    except OSError:
        pass  # a full disk, which has been told already
    finally:
        buffer.unlink(missing_ok=True)


def _move(buffer: Path, path: Path) -> None:
    with buffer.open("rb") as file:
        os.fsync(file.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer.replace(path)


class _Writer(Protocol):
    def add(self, table: pa.Table, *, keys: list[str], lists: pa.ListArray, images: pa.BinaryArray | None) -> None: ...

    def close(self) -> None: ...


class _Parquet:
    """All columns of the pool, as they came."""

    def __init__(self, path: Path, *, pool: Pool, stem: str) -> None:
        self._path = path
        self._file: pq.ParquetWriter | None = None

    def add(self, table: pa.Table, *, keys: list[str], lists: pa.ListArray, images: pa.BinaryArray | None) -> None:
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._file.write_table(table)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Tar:
    """A row as ``000012-00034.jpg``, ``.txt`` (a caption a line) and ``.json`` (key, captions, the other columns).

    A line break inside a caption is a blank in ``.txt``; ``.json`` holds the caption as it is. A further column of
    bytes, or of ``{bytes, path}``, is a member of its own, named ``.COLUMN.bin``.
    """

    def __init__(self, path: Path, *, pool: Pool, stem: str) -> None:
        self._path, self._pool, self._stem = path, pool, stem
        self._file: tarfile.TarFile | None = None
        self._count = 0

    def add(self, table: pa.Table, *, keys: list[str], lists: pa.ListArray, images: pa.BinaryArray | None) -> None:
        if self._file is None:
            self._file = tarfile.open(self._path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - open till the end
        left_out = {self._pool.image_column, self._pool.captions_column, self._pool.key_column}
        others = [name for name in table.schema.names if name not in left_out]
        rows = table.select(others).to_pylist() if others else [{} for _ in keys]
        for number, (key, captions, row) in enumerate(zip(keys, lists.to_pylist(), rows, strict=True)):
            name = f"{self._stem}-{self._count:06d}"
            self._count += 1
            data = None if images is None else images[number].as_py()
            if data is not None:
                self._member(f"{name}.{_ending(data)}", data)
            lines = [" ".join(text.splitlines()) for text in captions]
            self._member(f"{name}.txt", "\n".join(lines).encode())
            for column, cell in list(row.items()):
                data = cell.get("bytes") if isinstance(cell, dict) else cell
                if isinstance(data, bytes):
                    self._member(f"{name}.{column.replace('.', '_').replace('/', '_')}.bin", data)
                    del row[column]
                    if isinstance(cell, dict):
                        row[column] = {part: value for part, value in cell.items() if part != "bytes"}
            if self._pool.meta_column:
                row |= json.loads(row.pop(self._pool.meta_column))
            record = {**row, "key": key, "captions": captions}
            self._member(f"{name}.json", json.dumps(record, ensure_ascii=False, default=str).encode())

    def _member(self, name: str, data: bytes) -> None:
        assert self._file is not None
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._file.addfile(header, io.BytesIO(data))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


_STARTS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\x00": "tif",
    b"MM\x00*": "tif",
}


def _ending(data: bytes) -> str:
    """An image's usual ending, by its first bytes; what is not known is called jpg and fails when it is decoded."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((ending for start, ending in _STARTS.items() if data.startswith(start)), "jpg")
