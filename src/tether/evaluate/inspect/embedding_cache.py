"""The pairs seen once through the model, part by part on disk, so that a stopped inspection goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tether.core.atomic_io import atomic_path, parse_json, remove_leftovers, write_text
from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.hash_rng import hash_uniform
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data.bad_rows import named_in
from tether.data.loader import ordered
from tether.evaluate.embeddings import LABEL, Embedded, shrink
from tether.evaluate.inspect.context import SampledImages, Subject, Thumbnails
from tether.evaluate.inspect.parts import NextRows, Part, Step, divide
from tether.models.embed import encode_images, encode_texts

THUMBNAIL = 56  # pixels
SAMPLE = 256
"""Rows whose images are kept at the model's size, for the probes that change pixels."""
COLUMN_LETTERS = 40  # a longer value is no category
_FORMAT = "tether-inspect-3"
_WHOLE, _BAD = ".safetensors", ".bad.jsonl"
_GATHERED = "gathered"  # an empty file: every part was made, or tried


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
    image = first.image
    found.update(image.tobytes() if isinstance(image, np.ndarray) else repr(image).encode())
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

    Memory holds, while embedding, the embeddings of one part and the images at the model's size that are kept of it;
    afterwards the embeddings, at most ``limit`` rows of them, and the sample. What lies in the folder is not embedded
    again, but for parts of a finished run in which a row could not be read: these are tried once more.

    Args:
        model: any model that ``tether.load`` gives.
        source: the pairs.
        folder: where parts are kept.
        limit: most rows.
        label: column of the class; None takes ``label`` where rows have it.
        batch_size: rows in one forward.
        workers: threads that decode.
        strict: stop at the first bad row.
        seed: of the draw of the sample.
        facts: what the report calls model and source, the model's digest, and the command that evaluates it.
        on_progress: called with (rows done, rows in all or None).

    Raises:
        InputError: not one good row, a named label column that a row lacks, or a model of whose embeddings not one is
            finite.
    """
    parts = divide(source, limit=limit)
    expected = sum(part.rows for part in parts) if isinstance(parts, list) else None
    remove_leftovers(folder)
    _forget_bad(folder)
    tried: list[Path] = []
    files: list[Path] = []
    done, failed = 0, InputError(f"{source.name}: the data set is empty")
    for number, part in enumerate(parts):
        path = folder / f"part-{number:05d}{_WHOLE}"
        tried.append(path)
        steps = _kept(path, part)
        if steps is not None:
            part.pass_over(steps)
        else:
            path.with_suffix(_BAD).unlink(missing_ok=True)
            try:
                _embed(
                    model,
                    part,
                    path=path,
                    share=-(-SAMPLE // (len(parts) if isinstance(parts, list) else number + 1)),
                    label=label,
                    batch_size=batch_size,
                    workers=workers,
                    strict=strict,
                    seed=seed,
                )
            except InputError as error:
                if strict or isinstance(error, _MissingLabelError):
                    raise
                failed = error
                continue
        files.append(path)
        done += part.rows
        if on_progress is not None:
            on_progress(done, expected)
    if not files:
        raise failed
    write_text(folder / _GATHERED, "")
    bad = [path.with_suffix(_BAD) for path in tried]
    count = sum(len(named_in(path)) for path in bad)
    return _subject(model, source, files=files, bad=count, batch_size=batch_size, seed=seed, facts=facts)


def _forget_bad(folder: Path) -> None:
    """After a run that was not stopped, remove the parts in which rows could not be read, so that they are made again.

    After one that was stopped they stay, or going on would begin at the first of them.
    """
    if not (folder / _GATHERED).is_file():
        return
    for bad in folder.glob(f"part-*{_BAD}"):
        bad.with_suffix("").with_suffix(_WHOLE).unlink(missing_ok=True)
        bad.unlink()
    (folder / _GATHERED).unlink()


def _embed(
    model: DualEncoder,
    part: Part | NextRows,
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
    image, small = [], []
    spec = model.image_spec
    sample = _Drawn(share, seed=seed, size=spec.size)
    for some, images in ordered(
        part, image_spec=spec, batch_size=batch_size, workers=workers, strict=strict, on_bad=path.with_suffix(_BAD)
    ):
        rows += [replace(row, image=None) for row in some]  # their bytes are many
        image.append(encode_images(model, [images], not_finite="nan"))
        small.append(shrink(images, side=THUMBNAIL))
        sample.add([row.key for row in some], images, fine=torch.isfinite(image[-1]).all(dim=1))
    captions = [text for row in rows for text in row.texts]
    text = encode_texts(model, captions, batch_size=batch_size, not_finite="nan")
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.texts) for row in rows]))
    described = {
        "format": _FORMAT,
        "identity": part.identity,
        "steps": json.dumps(part.steps),
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
        "image": torch.cat(image),
        "text": text,
        "owner": owner,
        "thumbnails": torch.cat(small),
        "sampled": sample.places,
        "pixels": sample.pixels,
    }
    described["content"] = _content(tensors, described["rows"])
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=described)


def _content(tensors: dict[str, Tensor], rows: str) -> str:
    """A digest of a part, by which a damaged one is told."""
    found = hashlib.blake2b(rows.encode(), digest_size=8)
    for name, values in sorted(tensors.items()):
        found.update(f"{name} {tuple(values.shape)}".encode())
        found.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class _Drawn:
    """The rows of a part that a hash of their keys draws, with their images; the others' are not held.

    Attributes:
        places: rows of the part, ascending.
        pixels: their images.
    """

    def __init__(self, most: int, *, seed: int, size: tuple[int, int]) -> None:
        self.places = torch.empty(0, dtype=torch.int64)
        self.pixels = torch.empty(0, 3, *size, dtype=torch.uint8)
        self._most, self._seed, self._seen = most, seed, 0
        self._draws = np.empty(0)

    def add(self, keys: Sequence[str], images: Tensor, *, fine: Tensor) -> None:
        """The next rows; only fine ones can be drawn."""
        places = torch.nonzero(fine).flatten()
        draws = np.concatenate([self._draws, _draws([keys[at] for at in places.tolist()], seed=self._seed)])
        best = torch.from_numpy(np.sort(np.argsort(draws, kind="stable")[: self._most]))
        self.pixels = torch.cat([self.pixels, images[places]])[best]
        self.places = torch.cat([self.places, places + self._seen])[best]
        self._draws = draws[best.numpy()]
        self._seen += len(keys)


def _draws(keys: Sequence[str], *, seed: int) -> np.ndarray:
    return hash_uniform(keys, seed=seed, salt="inspect")


class _MissingLabelError(InputError):
    """A row lacks the column of classes that was asked for."""


def _labels(rows: Sequence[Row], *, label: str | None, where: str) -> list[str | None]:
    name = label or LABEL
    found = [None if row.meta.get(name) is None else str(row.meta[name]) for row in rows]
    if label is not None and None in found:
        known = ", ".join(sorted(map(str, rows[0].meta))) or "none"
        raise _MissingLabelError(f"{where}: row {rows[found.index(None)].key!r} has no {label!r}; its columns: {known}")
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


def _kept(path: Path, part: Part | NextRows) -> list[Step] | None:
    """What reading this part took, where it lies there whole; None for other rows, another version, a damaged file."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            said = file.metadata() or {}
            if said.get("format") != _FORMAT or said.get("identity") != part.identity:
                return None
            whole = _content({name: file.get_tensor(name) for name in file.keys()}, said["rows"]) == said["content"]  # noqa: SIM118
        steps = parse_json(said["steps"], where=str(path))
        return [(int(block), int(rows), bool(ended)) for block, rows, ended in steps] if whole else None
    except (SafetensorError, InputError, OSError, KeyError, TypeError, ValueError):
        return None


def _subject(
    model: DualEncoder,
    source: Source,
    *,
    files: Sequence[Path],
    bad: int,
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
    content = hashlib.blake2b(digest_size=8)
    share = -(-SAMPLE // len(files))
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            said = file.metadata()["rows"]
            part = {name: file.get_tensor(name) for name in ("image", "text", "owner", "sampled", "pixels")}
        content.update(f"{path.name} {said}".encode())
        for name in ("image", "text"):
            content.update(part[name].numpy().tobytes())
        rows = json.loads(said)
        drawn = _draws([rows["keys"][place] for place in part["sampled"].tolist()], seed=seed)
        some = torch.from_numpy(np.sort(np.argsort(drawn, kind="stable")[:share]))
        fine = torch.isfinite(part["image"]).all(dim=1)
        new = torch.cumsum(fine, dim=0) - 1 + len(keys)  # where each row of the part comes to stand
        kept = torch.isfinite(part["text"]).all(dim=1) & fine[part["owner"]]
        lost += int((~fine).sum()) + int((~kept & fine[part["owner"]]).sum())
        image.append(part["image"][fine])
        text.append(part["text"][kept])
        owner.append(new[part["owner"][kept]])
        sampled.append(new[part["sampled"][some]])
        pixels.append(part["pixels"][some])
        places += [(path, int(row)) for row in torch.nonzero(fine).flatten()]
        captions += [one for one, keep in zip(rows["captions"], kept.tolist(), strict=True) if keep]
        chosen = [place for place, keep in enumerate(fine.tolist()) if keep]
        keys += [rows["keys"][place] for place in chosen]
        labels += [rows["labels"][place] for place in chosen]
        mine = {name: [values[place] for place in chosen] for name, values in rows["columns"].items()}
        columns = mine if columns is None else {name: [*columns[name], *mine[name]] for name in columns if name in mine}
    if not keys:
        raise InputError(f"{source.name}: all {lost} image embeddings are not finite; the weights are damaged")
    seen = Embedded(
        keys=tuple(keys),
        captions=tuple(captions),
        labels=tuple(one for one in labels if one is not None) if None not in labels else (),
        image=torch.cat(image),
        text=torch.cat(text),
        text_to_image=torch.cat(owner),
        geometry=geometry_of(model).detached(),
    )
    return Subject(
        model=model,
        source=source,
        seen=seen,
        columns={name: tuple(values) for name, values in (columns or {}).items()},
        sample=SampledImages(torch.cat(sampled), torch.cat(pixels)),
        thumbnails=Thumbnails(tuple(places)),
        lost=lost,
        bad=bad,
        content=content.hexdigest(),
        batch_size=batch_size,
        seed=seed,
        **facts,
    )
