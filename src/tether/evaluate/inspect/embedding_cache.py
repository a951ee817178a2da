"""The pairs seen once through the model, part by part on disk, so that a stopped inspection resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.hash_rng import hash_uniform
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data.features import parquet
from tether.data.features.making import Refuse
from tether.data.features.parts import MadePart, make_parts
from tether.evaluate.embeddings import LABEL, Embedded, shrink
from tether.evaluate.inspect.context import SampledImages, Subject, Thumbnails
from tether.models.embed import encode_images, encode_texts

THUMBNAIL = 56  # pixels
PART_ROWS = 512
SAMPLE = 256
"""Rows whose images are kept at the model's size, for the probes that change pixels."""
COLUMN_LETTERS = 40  # a longer value is no category


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
    again; rows that could not be read are tried once more.

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
    parts, bad = make_parts(
        source,
        folder=folder,
        maker=lambda number, count: _Pairs(
            model,
            share=-(-SAMPLE // (number + 1 if count is None else count)),
            label=label,
            batch_size=batch_size,
            seed=seed,
            where=source.name,
        ),
        image_spec=model.image_spec,
        part_rows=PART_ROWS,
        bad_rows=folder / "bad_rows.jsonl",
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        on_progress=on_progress,
    )
    return _subject(model, source, parts=parts, bad=bad, label=label, batch_size=batch_size, seed=seed, facts=facts)


class _Pairs:
    """Rows of one part with both embeddings, small images, and those at the model's size that are drawn."""

    def __init__(
        self, model: DualEncoder, *, share: int, label: str | None, batch_size: int, seed: int, where: str
    ) -> None:
        self._model, self._label, self._batch_size, self._where = model, label, batch_size, where
        self._rows: list[Row] = []
        self._image: list[Tensor] = []
        self._small: list[Tensor] = []
        self._sample = _Drawn(share, seed=seed, size=model.image_spec.size)

    def add(self, rows: list[Row], pixels: Tensor, *, refuse: Refuse) -> None:
        for row in rows:
            if self._label is not None and row.meta.get(self._label) is None:
                known = ", ".join(sorted(map(str, row.meta))) or "none"
                raise InputError(f"{self._where}: row {row.key!r} has no {self._label!r}; its columns: {known}")
        self._rows += [replace(row, image=None) for row in rows]  # their bytes are many
        self._image.append(encode_images(self._model, [pixels], not_finite="nan"))
        self._small.append(shrink(pixels, side=THUMBNAIL))
        self._sample.add([row.key for row in rows], pixels, fine=torch.isfinite(self._image[-1]).all(dim=1))

    def table(self) -> pa.Table:
        captions = [text for row in self._rows for text in row.texts]
        text = encode_texts(self._model, captions, batch_size=self._batch_size, not_finite="nan")
        per_row = iter(text.split([len(row.texts) for row in self._rows]))
        pixels = dict(zip(self._sample.places.tolist(), self._sample.pixels, strict=True))
        image = torch.cat(self._image)
        return pa.table(
            {
                "key": pa.array([row.key for row in self._rows], pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(image.flatten().numpy()), image.shape[1]),
                "texts": pa.array([list(row.texts) for row in self._rows], pa.list_(pa.string())),
                "text_embedding": pa.array([_bytes(next(per_row)) for _ in self._rows], pa.binary()),
                "meta": pa.array([json.dumps(_words(row, self._label)) for row in self._rows], pa.string()),
                "thumbnail": pa.array(map(_bytes, torch.cat(self._small)), pa.binary()),
                "pixels": pa.array(
                    [_bytes(pixels[at]) if at in pixels else None for at in range(len(self._rows))], pa.binary()
                ),
            }
        )


def _bytes(values: Tensor) -> bytes:
    return values.numpy().tobytes()


def _words(row: Row, label: str | None) -> dict[str, str]:
    """The columns of short words and whole numbers, and the class."""
    return {
        str(name): str(value)
        for name, value in row.meta.items()
        if (isinstance(value, (str, bool, int)) and len(str(value)) <= COLUMN_LETTERS)
        or (name == (label or LABEL) and value is not None)
    }


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


def _subject(
    model: DualEncoder,
    source: Source,
    *,
    parts: Sequence[MadePart],
    bad: int,
    label: str | None,
    batch_size: int,
    seed: int,
    facts: dict[str, str],
) -> Subject:
    image, text, owner, sampled, pixels = [], [], [], [], []
    keys: list[str] = []
    captions: list[str] = []
    columns: list[dict[str, str]] = []
    places: list[tuple[Path, int]] = []
    lost = 0
    share = -(-SAMPLE // len(parts))
    for part in parts:
        table = parquet.read(part.path, columns=["key", "embedding", "texts", "text_embedding", "meta", "pixels"])
        found = {name: table.column(name).to_pylist() for name in ("key", "texts", "meta", "pixels")}
        seen = torch.from_numpy(table.column("embedding").combine_chunks().flatten().to_numpy().copy())
        seen = seen.view(len(table), -1)
        told = b"".join(table.column("text_embedding").to_pylist())
        told = torch.frombuffer(bytearray(told), dtype=torch.float32) if told else torch.empty(0)
        told = told.view(-1, seen.shape[1])
        whose = torch.repeat_interleave(torch.arange(len(table)), torch.tensor([len(some) for some in found["texts"]]))
        fine = torch.isfinite(seen).all(dim=1)
        new = torch.cumsum(fine, dim=0) - 1 + len(keys)  # where each row of the part comes to stand
        kept = torch.isfinite(told).all(dim=1) & fine[whose]
        lost += int((~fine).sum()) + int((~kept & fine[whose]).sum())
        drawn = [at for at, one in enumerate(found["pixels"]) if one is not None]
        best = np.sort(np.argsort(_draws([found["key"][at] for at in drawn], seed=seed), kind="stable")[:share])
        sampled += [int(new[drawn[at]]) for at in best]
        pixels += [torch.frombuffer(bytearray(found["pixels"][drawn[at]]), dtype=torch.uint8) for at in best]
        image.append(seen[fine])
        text.append(told[kept])
        owner.append(new[whose[kept]])
        chosen = torch.nonzero(fine).flatten().tolist()
        places += [(part.path, at) for at in chosen]
        keys += [found["key"][at] for at in chosen]
        columns += [json.loads(found["meta"][at]) for at in chosen]
        words = (one for some in found["texts"] for one in some)
        captions += [one for one, keep in zip(words, kept.tolist(), strict=True) if keep]
    if not keys:
        raise InputError(f"{source.name}: all {lost} image embeddings are not finite; the weights are damaged")
    shared = [name for name in columns[0] if all(name in one for one in columns)]
    whole = {name: tuple(one[name] for one in columns) for name in shared}
    geometry = geometry_of(model).detached()
    return Subject(
        model=model,
        source=source,
        seen=Embedded(
            keys=tuple(keys),
            captions=tuple(captions),
            labels=whole.get(label or LABEL, ()),
            image=torch.cat(image),
            text=torch.cat(text),
            text_to_image=torch.cat(owner),
            geometry=geometry,
        ),
        columns={name: values for name, values in whole.items() if max(map(len, values)) <= COLUMN_LETTERS},
        sample=SampledImages(
            torch.tensor(sampled, dtype=torch.int64),
            torch.stack(pixels).view(-1, 3, *model.image_spec.size)
            if pixels
            else torch.empty(0, 3, *model.image_spec.size, dtype=torch.uint8),
        ),
        thumbnails=Thumbnails(tuple(places)),
        lost=lost,
        bad=bad,
        content=hashlib.blake2b(repr([part.digest for part in parts]).encode(), digest_size=8).hexdigest(),
        batch_size=batch_size,
        seed=seed,
        **facts,
    )
