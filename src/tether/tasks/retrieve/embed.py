"""A source of pictures to Parquet files of vectors, in parts, so that a killed run goes on where it stopped."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tether.core.atomic_io import read_json, remove_leftovers, write_json
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import model_digest
from tether.core.printable import encodable, is_text
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Block, Row
from tether.data.bad_rows import BadRows
from tether.data.images import decode
from tether.data.loader import ordered
from tether.data.paths import anchor, is_url
from tether.models.embed import Precision, encode_images
from tether.tasks.retrieve import shards
from tether.tasks.retrieve.rows import MODEL, check_schema
from tether.tasks.retrieve.shards import Origin

Progress = Callable[[int, int | None], None]
STATE = "embed.json"
BAD_ROWS = "bad_rows.jsonl"
THUMBNAIL_QUALITY = 82  # of JPEG


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """What an embedding run left behind.

    Attributes:
        path: the Parquet file or the folder of parts.
        rows: pictures embedded, earlier runs included.
        new: of those, by this run.
        bad: rows that were skipped, earlier runs included.
        bad_rows: JSON-lines file that names them; absent when there are none.
        digest: of the model.
    """

    path: Path
    rows: int
    new: int
    bad: int
    bad_rows: Path
    digest: str


def embed(
    source: Source,
    *,
    model: DualEncoder,
    model_name: str,
    out: Path,
    batch_size: int = 64,
    part_rows: int = 2_048,
    thumbnail: int | None = None,
    precision: Precision = "float32",
    workers: int = 0,
    strict: bool = False,
    on_progress: Progress | None = None,
) -> EmbeddedFile:
    """Embed every good picture of a source once.

    The rows go to ``out``: one file when it ends in ``.parquet``, else a folder of parts. Columns: ``key``,
    ``embedding`` (fixed-size list of float32, not normalised), ``texts``, ``path`` (relative to the source's folder),
    ``thumbnail`` if asked for, and the rows' other columns. Each part is written atomically; a run that was killed at
    any moment goes on after the last part, and the result holds every row once. Where no part was finished, ``out`` is
    free for other settings. The model's digest stands in the schema's metadata.

    Args:
        source: where rows come from.
        model: embeds them; in eval mode.
        model_name: how it was loaded, kept for people.
        out: file or folder.
        batch_size: pictures in one forward.
        part_rows: rows of one part: the most that a kill makes this compute again.
        thumbnail: longest side in pixels of a JPEG kept beside each vector, or None for none.
        precision: of the forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of naming it in the side file and going on.
        on_progress: called with rows done and, where the source knows, rows in all.

    Raises:
        InputError: ``out`` holds other or damaged embeddings, there is no good row, or a bad row under ``strict``.
        LockedError: another process writes to ``out``.
        WriteError: a full disk, no permission; the parts that were finished are kept.
    """
    if not is_text(str(out)):
        raise InputError(f"{encodable(str(out))}: expected a name that is UTF-8 text")
    origin = Origin(model_name, model_digest(_module(model)), source.name, source.version)
    single = out.suffix == ".parquet"
    folder = out.with_name(out.name + ".parts") if single else out
    bad_rows = out.with_name(f"{out.stem}.{BAD_ROWS}") if single else out / BAD_ROWS
    with locked(folder, purpose="tether embed"):
        if single and out.exists():
            report = _finished(out, origin=origin, bad_rows=bad_rows)
            shutil.rmtree(folder, ignore_errors=True)  # what a kill after the last step left
            return report
        parts = _claim(folder, origin=origin, thumbnail=thumbnail, bad_rows=bad_rows)
        before = sum(map(shards.rows_in, parts))
        _embed_parts(
            source,
            model=model,
            origin=origin,
            folder=folder,
            parts=parts,
            bad_rows=bad_rows,
            batch_size=batch_size,
            part_rows=part_rows,
            thumbnail=thumbnail,
            precision=precision,
            workers=workers,
            strict=strict,
            tell=on_progress or (lambda done, total: None),
        )
        rows = sum(map(shards.rows_in, parts))
        if single:
            shards.join(parts, out)
            shutil.rmtree(folder, ignore_errors=True)
        bad = BadRows(source.name, path=bad_rows).count
    return EmbeddedFile(path=out, rows=rows, new=rows - before, bad=bad, bad_rows=bad_rows, digest=origin.digest)


def _embed_parts(
    source: Source,
    *,
    model: DualEncoder,
    origin: Origin,
    folder: Path,
    parts: list[Path],
    bad_rows: Path,
    batch_size: int,
    part_rows: int,
    thumbnail: int | None,
    precision: Precision,
    workers: int,
    strict: bool,
    tell: Progress,
) -> None:
    """Embed what the parts lack and append new ones to them."""
    left = _Remaining(source, done={key for part in parts for key in shards.keys_in(part)})
    before, total = len(left.done), _total(source)
    waiting: list[tuple[Row, np.ndarray]] = []
    images = _folder_of(source)

    def write_part(count: int) -> None:
        some = waiting[:count]
        del waiting[:count]
        kept = [row for row, _ in some]
        small = None if thumbnail is None else [make_thumbnail(row, side=thumbnail) for row in kept]
        vectors = np.stack([vector for _, vector in some])
        table = shards.to_table(kept, vectors=vectors, thumbnails=small, origin=origin, folder=images)
        number = 1 + int(parts[-1].stem.removeprefix("part-")) if parts else 0
        shards.write(table, folder / f"part-{number:05d}.parquet")
        parts.append(folder / f"part-{number:05d}.parquet")

    stream = ordered(
        left,
        image_spec=model.image_spec,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        on_bad=bad_rows,
    )
    refused = BadRows(source.name, path=bad_rows, strict=strict)
    for some, pixels in _until_empty(stream, left, strict=strict):
        vectors = encode_images(model, [pixels], precision=precision, not_finite="nan").numpy()
        for row, vector in zip(some, vectors, strict=True):
            if np.isnan(vector).any():
                refused.add(row.key, "its embedding is not finite (NaN or infinity)")
            else:
                waiting.append((row, vector))
        while len(waiting) >= part_rows:
            write_part(part_rows)
        tell(before + left.passed, total)
    if waiting:
        write_part(len(waiting))
    if not parts:
        raise InputError(f"{source.name}: no picture could be embedded; see {bad_rows}")


class _Remaining:
    """A source without the rows that are done."""

    def __init__(self, source: Source, *, done: set[str]) -> None:
        self._source, self.done = source, done
        self.name, self.version = source.name, source.version
        self._met: set[str] = set()
        self._blocks = [replace(block, rows=None) for block in source.blocks()]
        self._unread = len(self._blocks)
        self.passed = 0

    @property
    def exhausted(self) -> bool:
        return self._unread == 0

    def blocks(self) -> Sequence[Block]:
        return self._blocks

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for row in self._source.read(block, start=start):
            row = replace(row, key=encodable(row.key))  # as it is kept
            if row.key not in self.done:
                self.passed += 1
                yield row
            elif row.key in self._met:  # an earlier run embedded the first of that key; this one must still be named
                yield replace(row, bad="duplicate key; the first row of that key is kept")
            else:
                self._met.add(row.key)
        self._unread -= 1


def _until_empty(
    stream: Iterator[tuple[list[Row], Tensor]], left: _Remaining, *, strict: bool
) -> Iterator[tuple[list[Row], Tensor]]:
    """The stream; that nothing good is left is no error when an earlier run did something."""
    try:
        yield from stream
    except InputError:
        if strict or not left.done or not left.exhausted:
            raise


def make_thumbnail(row: Row, *, side: int) -> bytes | None:
    """The row's picture as a JPEG whose longest side has at most ``side`` pixels; None without a picture."""
    from PIL import Image

    if row.image is None:
        return None
    pixels = Image.fromarray(decode(row.image, name=row.key).permute(1, 2, 0).contiguous().numpy())
    pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def _claim(folder: Path, *, origin: Origin, thumbnail: int | None, bad_rows: Path) -> list[Path]:
    """Make the folder this run's, or find that it is; its finished parts, none of them damaged."""
    mine = {
        "model": origin.model,
        "digest": origin.digest,
        "source": origin.source,
        "source_version": origin.source_version,
        "thumbnail": thumbnail,
    }
    remove_leftovers(folder)
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        if any(folder.glob("*.parquet")):
            raise InputError(f"{folder}: holds Parquet files of something else; choose another --out")
        bad_rows.unlink(missing_ok=True)
        write_json(folder / STATE, mine)
        return parts
    check_schema(shards.shared_schema(parts), where=str(folder))
    theirs = read_json(folder / STATE)
    for key, value in mine.items():
        found = theirs.get(key) if isinstance(theirs, dict) else None
        if key != "model" and found != value:
            raise InputError(
                f"{folder}: holds embeddings with {key} {found!r}, this run has {value!r}; "
                "choose another --out, or remove it"
            )
    return parts


def _finished(out: Path, *, origin: Origin, bad_rows: Path) -> EmbeddedFile:
    """The report of a file that is already there, if it is this run's."""
    metadata = shards.schema_of(out).metadata or {}
    for key, value in origin.metadata().items():
        if key != MODEL and metadata.get(key) != value:
            theirs = metadata.get(key, b"").decode(errors="replace")
            raise InputError(
                f"{out}: already there, with {key.decode()} {theirs!r} instead of {value.decode()!r}; "
                "choose another --out, or remove it"
            )
    bad = BadRows(origin.source, path=bad_rows).count
    return EmbeddedFile(path=out, rows=shards.rows_in(out), new=0, bad=bad, bad_rows=bad_rows, digest=origin.digest)


def _folder_of(source: Source) -> Path:
    """The folder that paths of images are relative to."""
    place = Path("." if is_url(source.name) else anchor(source.name))
    return place.parent if place.is_file() else place


def _total(source: Source) -> int | None:
    counts = [block.rows for block in source.blocks()]
    return None if None in counts else sum(count for count in counts if count is not None)


def _module(model: DualEncoder) -> torch.nn.Module:
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model: expected an nn.Module, got {type(model).__name__}")
    return model
