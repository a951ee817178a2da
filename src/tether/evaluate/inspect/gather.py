"""The pairs seen once through the model, part by part on disk, so that a stopped inspection goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tether.core.draw import hash_uniform
from tether.core.errors import InputError
from tether.core.files import atomic_path
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data.loader import ordered
from tether.evaluate.embeddings import LABEL, Embedded, shrink
from tether.evaluate.inspect.parts import Part, divide
from tether.evaluate.inspect.subject import Sample, Subject, Thumbnails
from tether.models.embed import encode_images, encode_texts

THUMBNAIL = 56  # pixels
SAMPLE = 256
"""Rows whose pictures are kept at the model's size, for the probes that change pixels."""
COLUMN_LETTERS = 40  # a longer value is no category
_FORMAT = "tether-inspect-1"


def source_digest(source: Source, *, spec: str) -> str:
    """A short name for what a source holds: its name, version and blocks, the words it was opened with, its first row.

    Raises:
        InputError: a source without a row.
    """
    found = hashlib.blake2b(digest_size=8)
    blocks = source.blocks()
    listed = [(block.id, block.rows) for block in blocks]
    found.update(json.dumps([source.name, source.version, spec, listed]).encode())
    first = next((row for block in blocks for row in source.read(block)), None)
    if first is None:
        raise InputError(f"{source.name}: the data set is empty")
    found.update(repr((first.key, first.texts)).encode())
    picture = first.image
    found.update(picture.tobytes() if isinstance(picture, np.ndarray) else repr(picture).encode())
    return found.hexdigest()


def gather(
    model: DualEncoder,
    source: Source,
    *,
    folder: Path,
    limit: int,
    label: str | None = None,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    seed: int = 0,
    facts: dict[str, str],
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Subject:
    """Embed up to ``limit`` rows, spread over the source, and read them back as one subject.

    Memory holds one part while embedding; afterwards the embeddings, at most ``limit`` rows of them.

    Args:
        model: any model that ``tether.load`` gives.
        source: the pairs.
        folder: where parts are kept; what lies there already is not embedded again.
        limit: most rows.
        label: column of the class; None takes ``label`` where rows have it.
        batch_size: rows in one forward.
        workers: threads that decode.
        strict: stop at the first bad row.
        seed: of the draw of the sample.
        facts: what the report calls model and source, and the model's digest.
        on_progress: called with (rows done, rows in all or None).

    Raises:
        InputError: not one good row, a named label column that a row lacks, or a model of whose embeddings not one is
            finite.
    """
    parts = divide(source, limit=limit)
    expected = sum(piece.rows for part in parts for piece in part.pieces)
    share = -(-SAMPLE // len(parts))
    files, done = [], 0
    for number, part in enumerate(parts):
        path = folder / f"part-{number:05d}.safetensors"
        if not _whole(path):
            try:
                _embed(
                    model,
                    part,
                    path=path,
                    share=share,
                    label=label,
                    batch_size=batch_size,
                    workers=workers,
                    strict=strict,
                    seed=seed,
                )
            except InputError as error:
                said = str(error)
                lacks_label = label is not None and f"no {label!r}" in said
                if strict or lacks_label or "not finite" in said or (number == len(parts) - 1 and not files):
                    raise
                continue
        files.append(path)
        done += sum(piece.rows for piece in part.pieces)
        if on_progress is not None:
            on_progress(done, expected)
    return _subject(model, source, files=files, folder=folder, batch_size=batch_size, seed=seed, facts=facts)


def _embed(
    model: DualEncoder,
    part: Part,
    *,
    path: Path,
    share: int,
    label: str | None,
    batch_size: int,
    workers: int,
    strict: bool,
    seed: int,
) -> None:
    """One part to one file."""
    rows: list[Row] = []
    image, small, pixels = [], [], []
    bad = path.with_suffix(".bad.jsonl")
    spec = model.image_spec
    for some, pictures in ordered(
        part, image_spec=spec, batch_size=batch_size, workers=workers, strict=strict, on_bad=bad
    ):
        rows += some
        image.append(_in_halves(pictures, lambda part: encode_images(model, [part]), width=model.dim))
        small.append(shrink(pictures, side=THUMBNAIL))
        pixels.append(pictures)
    captions = [text for row in rows for text in row.texts]
    text = _in_halves(captions, lambda part: encode_texts(model, part, batch_size=batch_size), width=model.dim)
    pooled = torch.cat(image)
    fine = torch.isfinite(pooled).all(dim=1)
    if not fine.any():
        raise InputError(f"{part.name}: all {len(pooled)} picture embeddings are not finite; the weights are damaged")
    drawn = np.argsort(hash_uniform([row.key for row in rows], seed=seed, salt="inspect"), kind="stable")[:share]
    chosen = torch.from_numpy(np.sort(drawn))
    chosen = chosen[fine[chosen]]
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.texts) for row in rows]))
    described = {
        "format": _FORMAT,
        "rows": json.dumps(
            {
                "keys": [row.key for row in rows],
                "captions": captions,
                "labels": _labels(rows, label=label, where=part.name),
                "columns": _columns(rows),
            }
        ),
    }
    tensors = {
        "image": pooled,
        "text": text,
        "owner": owner,
        "thumbnails": torch.cat(small),
        "sampled": chosen,
        "pixels": torch.cat(pixels)[chosen].contiguous(),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=described)


def _in_halves(items: Any, encode: Callable[[Any], Tensor], *, width: int) -> Tensor:
    """Embeddings of all items, NaN where one is not finite: halves are tried until the culprit is alone."""
    if not len(items):
        return torch.empty(0, width)
    try:
        return encode(items)
    except InputError as error:
        if "not finite" not in str(error):
            raise
    if len(items) == 1:
        return torch.full((1, width), torch.nan)
    middle = len(items) // 2
    return torch.cat([_in_halves(half, encode, width=width) for half in (items[:middle], items[middle:])])


def _labels(rows: Sequence[Row], *, label: str | None, where: str) -> list[str | None]:
    name = label or LABEL
    found = [None if row.meta.get(name) is None else str(row.meta[name]) for row in rows]
    if label is not None and None in found:
        known = ", ".join(sorted(map(str, rows[0].meta))) or "none"
        raise InputError(f"{where}: row {rows[found.index(None)].key!r} has no {label!r}; its columns: {known}")
    return found


def _columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Columns of short words or whole numbers that every row has."""
    names = [
        name
        for name, value in rows[0].meta.items()
        if isinstance(value, (str, bool, int)) and len(str(value)) <= COLUMN_LETTERS
    ]
    return {
        str(name): [str(row.meta[name]) for row in rows]
        for name in names
        if all(isinstance(row.meta.get(name), (str, bool, int)) for row in rows)
    }


def _whole(path: Path) -> bool:
    """Whether a part lies there that can be read; what another program or version left is made again."""
    if not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("format") == _FORMAT
    except SafetensorError:
        return False


def _subject(
    model: DualEncoder,
    source: Source,
    *,
    files: Sequence[Path],
    folder: Path,
    batch_size: int,
    seed: int,
    facts: dict[str, str],
) -> Subject:
    image, text, owner, sampled, pixels = [], [], [], [], []
    keys: list[str] = []
    captions: list[str] = []
    labels: list[str | None] = []
    columns: dict[str, list[str]] | None = None
    places: list[tuple[Path, int]] = []
    lost = 0
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            rows = json.loads(file.metadata()["rows"])
            part = {name: file.get_tensor(name) for name in ("image", "text", "owner", "sampled", "pixels")}
        fine = torch.isfinite(part["image"]).all(dim=1)
        new = torch.cumsum(fine, dim=0) - 1 + len(keys)  # where each row of the part comes to stand
        kept = torch.isfinite(part["text"]).all(dim=1) & fine[part["owner"]]
        lost += int((~fine).sum()) + int((~kept & fine[part["owner"]]).sum())
        image.append(part["image"][fine])
        text.append(part["text"][kept])
        owner.append(new[part["owner"][kept]])
        sampled.append(new[part["sampled"]])
        pixels.append(part["pixels"])
        places += [(path, int(row)) for row in torch.nonzero(fine).flatten()]
        captions += [one for one, keep in zip(rows["captions"], kept.tolist(), strict=True) if keep]
        chosen = [place for place, keep in enumerate(fine.tolist()) if keep]
        keys += [rows["keys"][place] for place in chosen]
        labels += [rows["labels"][place] for place in chosen]
        mine = {name: [values[place] for place in chosen] for name, values in rows["columns"].items()}
        columns = mine if columns is None else {name: [*columns[name], *mine[name]] for name in columns if name in mine}
    seen = Embedded(
        keys=tuple(keys),
        captions=tuple(captions),
        labels=tuple(one for one in labels if one is not None) if None not in labels else (),
        image=torch.cat(image),
        text=torch.cat(text),
        text_to_image=torch.cat(owner),
    )
    bad = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("part-*.bad.jsonl"))
    return Subject(
        model=model,
        source=source,
        seen=seen,
        columns={name: tuple(values) for name, values in (columns or {}).items()},
        sample=Sample(torch.cat(sampled), torch.cat(pixels)),
        thumbnails=Thumbnails(tuple(places)),
        lost=lost,
        bad=bad,
        batch_size=batch_size,
        seed=seed,
        **facts,
    )
