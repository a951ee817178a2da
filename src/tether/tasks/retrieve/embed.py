"""Images of a source to Parquet files of vectors, resumable."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import model_digest
from tether.core.printable import encodable, is_text
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.data.bad_rows import BadRows
from tether.data.features import parquet
from tether.data.features.parts import MadePart, make_parts
from tether.data.paths import anchor, is_url
from tether.models.embed import Precision
from tether.tasks.retrieve import shards
from tether.tasks.retrieve.object_store import files_here
from tether.tasks.retrieve.ray_workers import RayWorkers
from tether.tasks.retrieve.rows import EMBEDDING, KEY, MODEL, check_schema, checked_rows
from tether.tasks.retrieve.shards import BAD_ROWS, STATE, Origin
from tether.tasks.retrieve.vectors import Vectors

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """What an embedding run left behind.

    Attributes:
        path: the Parquet file or the folder of parts; a URL where it lies in an object store.
        rows: images embedded, earlier runs included.
        new: of those, by this run.
        bad: rows that were skipped, earlier runs included.
        bad_rows: JSON-lines file that names them; absent when there are none.
        digest: of the model.
    """

    path: Path | str
    rows: int
    new: int
    bad: int
    bad_rows: Path | str
    digest: str

    def keys(self) -> list[str]:
        """The rows' keys, in order."""
        with files_here(self.path) as files:
            return [key for file in files for key in parquet.keys_in(file)]

    def unit(self) -> Float[np.ndarray, "n d"]:
        """(n, d) float32 rows of length 1."""
        with files_here(self.path) as files:
            tables = (parquet.read(file, columns=[KEY, EMBEDDING]) for file in files)
            return np.concatenate([checked_rows(table, where=str(self.path))[1] for table in tables])

    def _repr_html_(self) -> str:
        return f"<p>{self.rows:,} vectors, {self.bad:,} images that could not be read</p>"


@checked
def embed(
    source: Source,
    *,
    model: DualEncoder,
    model_name: str,
    out: Path,
    batch_size: Count = 64,
    part_rows: int = 2_048,
    thumbnail: int | None = None,
    precision: Precision = "float32",
    workers: int = 0,
    strict: bool = False,
    ray: RayWorkers | None = None,
    on_part: Callable[[MadePart], None] | None = None,
    on_progress: Progress | None = None,
) -> EmbeddedFile:
    """Embed every good image of a source once.

    The rows go to ``out``: one file when it ends in ``.parquet``, else a folder of parts. Columns: ``key``,
    ``embedding`` (fixed-size list of float32, not normalised), ``texts``, ``path`` (relative to the source's folder),
    ``thumbnail`` if asked for, and the rows' other columns. Each part is written atomically; a run that was killed at
    any moment resumes after the last part, and the result holds every row once, in order. Rows of a folder that were
    bad are tried again. Where no part was finished, ``out`` is free for other settings. The model's digest stands in
    the schema's metadata.

    Args:
        source: where rows come from.
        model: embeds them; in eval mode.
        model_name: how it was loaded, kept for people.
        out: file or folder.
        batch_size: images in one forward.
        part_rows: rows of one part: the most that a kill costs. A folder that was begun keeps its own.
        thumbnail: longest side in pixels of a JPEG kept beside each vector, or None for none.
        precision: of the forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of logging and skipping it.
        ray: workers of a Ray cluster that embed in place of this process, each with one thread that decodes ahead. The
            rows, their order and the files are the same, and what one way began the other finishes.
        on_part: called with every part that is finished, in order, those of earlier runs included.
        on_progress: called with rows done and, where the source knows, rows in all.

    Raises:
        InputError: ``out`` holds other or damaged embeddings, there is no good row, or a bad row under ``strict``; no
            such cluster, a model that cannot be sent to its workers, or three of them died over one part.
        MissingExtraError: Ray is not installed.
        LockedError: another process writes to ``out``.
        WriteError: a full disk, no permission; the parts that were finished are kept.
    """
    if not is_text(str(out)):
        raise InputError(f"{encodable(str(out))}: expected a name that is UTF-8 text")
    origin = origin_of(source, model=model, model_name=model_name)
    single = out.suffix == ".parquet"
    folder = out.with_name(out.name + ".parts") if single else out
    bad_rows = out.with_name(f"{out.stem}.{BAD_ROWS}") if single else out / BAD_ROWS
    with locked(folder, purpose="tether embed"):
        if single and out.exists():
            report = _finished(out, origin=origin, bad_rows=bad_rows)
            shutil.rmtree(folder, ignore_errors=True)  # what a kill after the last step left
            return report
        part_rows, before = _claim(folder, source=source, origin=origin, thumbnail=thumbnail, part_rows=part_rows)
        settings: dict[str, Any] = {
            "origin": origin,
            "images": _folder_of(source),
            "thumbnail": thumbnail,
            "precision": precision,
        }
        there = (
            None
            if ray is None
            else ray.making(source, model=model, settings=settings, part_rows=part_rows, batch_size=batch_size)
        )
        with there or contextlib.nullcontext() as making:
            parts, _ = make_parts(
                source,
                folder=folder,
                maker=lambda number, count: Vectors(model, **settings),
                image_spec=model.image_spec,
                part_rows=part_rows,
                bad_rows=bad_rows,
                batch_size=batch_size,
                workers=workers,
                strict=strict,
                making=making,
                on_part=on_part,
                on_progress=on_progress,
            )
        rows = sum(part.rows for part in parts)
        if single:
            shards.join([part.path for part in parts], out)
            shutil.rmtree(folder, ignore_errors=True)
        bad = BadRows(source.name, path=bad_rows).count
    return EmbeddedFile(path=out, rows=rows, new=rows - before, bad=bad, bad_rows=bad_rows, digest=origin.digest)


def origin_of(source: Source, *, model: DualEncoder, model_name: str) -> Origin:
    """What makes the vectors.

    Raises:
        InputError: the model is no module.
    """
    numbers = getattr(source, "numbers", {})
    return Origin(model_name, model_digest(_module(model)), source.name, source.version, numbers)


def check_origin(metadata: Mapping[bytes, bytes], *, origin: Origin, where: str) -> None:
    """See that vectors are those that a run would make.

    Raises:
        InputError: they are of another model or source.
    """
    for key, value in origin.metadata().items():
        if key != MODEL and metadata.get(key) != value:
            theirs = metadata.get(key, b"").decode(errors="replace")
            raise InputError(
                f"{where}: already there, with {key.decode()} {theirs!r} instead of {value.decode()!r}; "
                "choose another --out, or remove it"
            )


def _claim(folder: Path, *, source: Source, origin: Origin, thumbnail: int | None, part_rows: int) -> tuple[int, int]:
    """Make the folder this run's, or find that it is and no part damaged; rows of one part, and rows that are done."""
    mine = {**origin.names(), "thumbnail": thumbnail, "part_rows": part_rows}
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        if any(folder.glob("*.parquet")):
            raise InputError(f"{folder}: holds Parquet files of something else; choose another --out")
        if not (folder / STATE).exists() and _is_read(folder, source):
            raise InputError(f"{folder}: holds the data that are read; choose another --out")
        write_json(folder / STATE, mine)
        return part_rows, 0
    check_schema(shards.shared_schema(parts), where=str(folder))
    theirs = read_json(folder / STATE)
    for key, value in mine.items():
        found = theirs.get(key) if isinstance(theirs, dict) else None
        if key not in ("model", "part_rows") and found != value:
            raise InputError(
                f"{folder}: holds embeddings with {key} {found!r}, this run has {value!r}; "
                "choose another --out, or remove it"
            )
    begun = theirs.get("part_rows")
    return begun if isinstance(begun, int) and begun > 0 else part_rows, sum(
        len(parquet.keys_in(part)) for part in parts
    )


def _finished(out: Path, *, origin: Origin, bad_rows: Path) -> EmbeddedFile:
    """The report of a file that is already there, if it is this run's."""
    check_origin(parquet.schema_of(out).metadata or {}, origin=origin, where=str(out))
    bad = BadRows(origin.source, path=bad_rows).count
    return EmbeddedFile(path=out, rows=parquet.rows_in(out), new=0, bad=bad, bad_rows=bad_rows, digest=origin.digest)


def _folder_of(source: Source) -> Path:
    """The folder that paths of images are relative to."""
    place = Path("." if is_url(source.name) else anchor(source.name))
    return place.parent if place.is_file() else place


def _is_read(folder: Path, source: Source) -> bool:
    """Whether a folder is the source's own; one that holds nothing but hidden files, such as a lock, is not."""
    if is_url(source.name) or folder.resolve() != _folder_of(source).resolve():
        return False
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _module(model: DualEncoder) -> torch.nn.Module:
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model: expected an nn.Module, got {type(model).__name__}")
    return model
