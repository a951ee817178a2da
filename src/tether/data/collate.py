"""From a draft of a batch to its tensors: captions drawn, images decoded once, tokens looked up, findings carried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Tokenizer
from tether.core.types import Batch, ImageLike, ImageSpec, Regions, Row
from tether.data.bad_rows import BadRows
from tether.data.captions import CAPTION_PICKS, CaptionPick
from tether.data.images import load
from tether.data.shuffle import Draft

if TYPE_CHECKING:
    from tether.data.augment import Augment
    from tether.data.contents import BatchContents
    from tether.data.placement import Placement
    from tether.data.regions import SeenRegions

NEGATIVE_IMAGE, NEGATIVE_TEXT = "negative_image", "negative_text"
"""Where a row's meta and a batch's extra hold the hard negative."""
REGION_TEXT = "region_text"
"""Where a batch's extra holds the tokens of its regions' phrases."""
_REDRAWS = 1000
"""Replacements tried for one bad row; with half of all rows bad the chance to need them all is 1e-301."""
_REMEMBERED = 500_000
"""Captions whose ids are remembered, and keys of broken images, at most."""


@dataclass(frozen=True, slots=True)
class RowContents:
    """What was read of one row, besides its plain image.

    Attributes:
        views: pixels of each view, ``image`` among them, and under ``negative_image`` the hard negative's.
        placements: where each view lies in the image, after augmentation.
        regions: those of each view.
        phrases: of the regions.
        tensors: of each column of latents.
        labels: of the pixels of each view.
    """

    views: Mapping[str, Tensor] = field(default_factory=dict)
    placements: Mapping[str, Placement] = field(default_factory=dict)
    regions: Mapping[str, SeenRegions] = field(default_factory=dict)
    phrases: Sequence[str] = ()
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)


_NOTHING = RowContents()
_IN_TABLE: tuple[list[Tensor], RowContents] = ([], _NOTHING)


class Assembler:
    """Turns drafts into this process's share of their batches; safe to call from several threads."""

    def __init__(
        self,
        *,
        image_spec: ImageSpec,
        tokenizer: Tokenizer,
        seed: int,
        share: tuple[int, int],
        caption: Literal["random", "first"] | CaptionPick,
        augment: Augment | None,
        contents: BatchContents | None,
        bad: BadRows,
        held: Sequence[Row] | None,
        memory: int,
    ) -> None:
        """Keep decoded images of ``held`` rows when all of them fit into ``memory`` bytes."""
        if isinstance(caption, str) and caption not in CAPTION_PICKS:
            raise InputError(f"caption: expected a callable or one of {', '.join(CAPTION_PICKS)}, got {caption!r}")
        self._pick: CaptionPick = CAPTION_PICKS[caption]() if isinstance(caption, str) else caption
        image_spec = image_spec.fixed()
        self._spec, self._tokenizer, self._seed, self._share = image_spec, tokenizer, seed, share
        self._augment, self._bad, self._contents = augment, bad, contents
        self._cuts = contents is not None and not contents.plain_images
        self._pixels: Tensor | None = None
        if held is not None and not self._cuts:
            # A second table for hard negatives, where rows have some.
            most = 2 if any(row.meta.get(NEGATIVE_IMAGE) is not None for row in held) else 1
            shape = (most, len(held), 3, *image_spec.size)
            if int(np.prod(shape)) <= memory:
                self._pixels = torch.empty(shape, dtype=torch.uint8)
                self._ready = np.zeros(len(held), dtype=bool)
        self._tokens: dict[str, np.ndarray] = {}
        self._refused: set[str] = set()  # so that a broken image is opened once and not in every epoch

    def __call__(self, draft: Draft) -> Batch:
        """Decode, choose captions, augment, tokenise."""
        begin, end = (draft.start + at for at in self._share)
        pixels, negatives, rows, read = self._images(draft, range(begin, end))
        draws = [self._draw(row, draft) for row in rows]
        texts = [self._pick(row, draw=draw) for row, draw in zip(rows, draws, strict=True)]
        bits = np.array(draws, dtype=np.uint64)
        if self._augment is not None and pixels.numel():
            # Both of a quadruple alike, so that the change of images is no way to tell them apart.
            pixels = self._augment(pixels, draws=bits)
            negatives = None if negatives is None else self._augment(negatives, draws=bits)
        numbers: dict[str, int] = {}
        ids = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])
        extra: dict[str, object] = {"keys": [row.key for row in rows], "texts": texts, "ids": ids, **facts_of(rows)}
        if negatives is not None:
            extra[NEGATIVE_IMAGE] = negatives
        others = [row.meta.get(NEGATIVE_TEXT) for row in rows]
        known = [text for text in others if isinstance(text, str) and text.strip()]
        if len(known) == len(rows):
            extra[NEGATIVE_TEXT] = self._tokenise(known)
        if self._contents is not None:
            extra |= self._contents.extra(read, draws=bits, spec=self._spec)
            further = self._contents.texts(rows, said=texts, draws=draws)
            if isinstance(regions := extra.get("regions"), Regions) and regions.phrases is not None:
                further[REGION_TEXT] = [text for said in regions.phrases for text in said]
            extra |= {name: self._tokenise(said) for name, said in further.items()}
        return Batch(pixels, self._tokenise(texts), extra)

    def _draw(self, row: Row, draft: Draft) -> int:
        """64 random bits of this seed, epoch and row."""
        return hash_int(row.key, seed=self._seed, salt=f"epoch {draft.epoch}")

    def _images(self, draft: Draft, places: range) -> tuple[Tensor, Tensor | None, list[Row], list[RowContents]]:
        """(b, 3, H, W) uint8, as many hard negatives if every row has one, the rows, and what else was read of them."""
        indices = draft.order[places.start : places.stop].copy()
        opened: list[tuple[list[Tensor], RowContents]] = []
        for number, place in enumerate(places):
            index = int(indices[number])
            attempt = 0
            while (images := self._open(draft, index)) is None:
                if attempt == _REDRAWS:
                    raise InputError(f"{self._bad.source}: no good row found to replace {_REDRAWS} bad ones")
                salt = f"instead {draft.epoch} {draft.window} {place} {attempt}"
                index = int(draft.order[hash_int(salt, seed=self._seed) % len(draft.order)])
                attempt += 1
            indices[number] = index
            opened.append(images)
        rows, read = [draft.pool[index] for index in indices], [one for _, one in opened]
        if self._pixels is not None:
            where, whole = torch.from_numpy(indices), all(row.meta.get(NEGATIVE_IMAGE) is not None for row in rows)
            return self._pixels[0][where], self._pixels[1][where] if whole else None, rows, read
        if self._contents is not None and not self._contents.images:
            return torch.empty((len(rows), 3, 0, 0), dtype=torch.uint8), None, rows, read
        whole = all(len(images) > 1 for images, _ in opened)
        negatives = torch.stack([images[1] for images, _ in opened]) if whole else None
        return torch.stack([images[0] for images, _ in opened]), negatives, rows, read

    def _open(self, draft: Draft, index: int) -> tuple[list[Tensor], RowContents] | None:
        """The image of a row and its hard negative (nothing when both are in the table), or None when it is bad."""
        ready = self._pixels is not None and self._ready[index]
        if ready and self._contents is None:
            return _IN_TABLE
        row = draft.pool[index]
        if row.key in self._refused:
            return None
        if not ready:
            self._bad.tried(1)
        try:
            images, read = self._read(row, draw=self._draw(row, draft), ready=ready)
        except InputError as error:
            self._bad.add(row.key, str(error))
            # What is read of crops and regions depends on the draw, and a row that is bad now may be good later.
            if not self._cuts and len(self._refused) < _REMEMBERED:
                self._refused.add(row.key)
            return None
        if self._pixels is None or ready:
            return images, read
        for table, image in zip(self._pixels, images, strict=False):
            table[index] = image
        self._ready[index] = True
        return [], read

    def _read(self, row: Row, *, draw: int, ready: bool) -> tuple[list[Tensor], RowContents]:
        """Image and hard negative, unless they are in the table, and what else the batch holds of a row."""
        contents, read = self._contents, _NOTHING
        wanted = [row.image] if row.meta.get(NEGATIVE_IMAGE) is None else [row.image, row.meta[NEGATIVE_IMAGE]]
        if isinstance(wanted[-1], str):  # a path may lead anywhere
            raise InputError(f"{NEGATIVE_IMAGE}: expected an encoded image or pixels, got a text")
        if contents is not None:
            negative = cast(ImageLike, wanted[1]) if len(wanted) > 1 else None  # which is looked at when it is opened
            read = contents.read(row, negative=negative, draw=draw, spec=self._spec, augment=self._augment)
        if self._cuts:
            return [read.views[name] for name in ("image", NEGATIVE_IMAGE) if name in read.views], read
        if ready:
            return [], read
        return [load(image, self._spec, name=row.key) for image in wanted], read  # pyrefly: ignore - load checks

    def _tokenise(self, texts: list[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        found = self._tokens
        if new:
            ids = self._tokenizer(new).numpy()
            lengths = ids.shape[1] - np.argmax(ids[:, ::-1] != 0, axis=1)  # the end token is never 0
            fresh = {text: ids[i, : lengths[i]] for i, text in enumerate(new)}
            if len(self._tokens) + len(fresh) <= _REMEMBERED:
                self._tokens.update(fresh)
            else:
                found = {**{text: self._tokens[text] for text in texts if text in self._tokens}, **fresh}
        each = [found[text] for text in texts]
        out = np.zeros((len(each), max(map(len, each))), dtype=np.int64)
        for row, ids in zip(out, each, strict=True):
            row[: len(ids)] = ids
        return torch.from_numpy(out)


VECTORS = ("findings", "text_findings")
"""Columns of numbers, one for each finding: 0 absent, above 0 present, -1 or nothing uncertain."""
NAMES = ("study", "patient", "label")
"""Columns of words or numbers that say which rows belong together."""


def facts_of(rows: Sequence[Row]) -> dict[str, Tensor]:
    """The columns above that every row has, as tensors: vectors (b, k) float32, names (b,) int64.

    Equal names give equal numbers in every batch and on every process; they are no identities to be read back from, but
    short ones can be guessed. A ``label`` that is a whole number stays what it is.

    Args:
        rows: of one batch.

    Raises:
        InputError: vectors of different lengths, or something that is no number; it names the row.
    """
    found: dict[str, Tensor] = {}
    for name in VECTORS:
        if all(row.meta.get(name) is not None for row in rows):
            vectors = [_vector(row, name) for row in rows]
            odd = next((place for place, vector in enumerate(vectors) if len(vector) != len(vectors[0])), None)
            if odd is not None:
                raise InputError(
                    f"{rows[odd].key}: {name}: expected {len(vectors[0])} numbers, as in {rows[0].key}, got "
                    f"{len(vectors[odd])}"
                )
            found[name] = torch.tensor(vectors, dtype=torch.float32)
    for name in NAMES:
        if all(row.meta.get(name) not in (None, "") for row in rows):
            numbers = [_number(row.meta[name], name) for row in rows]
            found[name] = torch.tensor(numbers, dtype=torch.int64)
    return found


def _number(value: object, column: str) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return int(value) if column == "label" and whole else _hashed(str(value), column)  # pyrefly: ignore


@lru_cache(1 << 16)
def _hashed(name: str, column: str) -> int:
    return hash_int(name, salt=column) >> 1


def _vector(row: Row, name: str) -> list[float]:
    value = row.meta[name]
    parts = value.split() if isinstance(value, str) else value
    if isinstance(parts, (int, float)) and not isinstance(parts, bool):
        parts = [parts]
    if not isinstance(parts, (list, tuple, np.ndarray)) or not len(parts):
        raise InputError(f"{row.key}: {name}: expected numbers, such as [1, 0, -1] or '1 0 -1', got {value!r}")
    try:
        return [math.nan if part is None else float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{row.key}: {name}: expected numbers, got {value!r}") from None
