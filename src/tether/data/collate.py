"""From a draft of a batch to its tensors: captions drawn, images decoded once, tokens looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Tokenizer
from tether.core.types import Batch, ImageSpec, Row
from tether.data.bad_rows import BadRows
from tether.data.captions import CAPTION_PICKS, CaptionPick
from tether.data.images import load
from tether.data.shuffle import Draft
from tether.data.study_metadata import facts_of

NEGATIVE_IMAGE, NEGATIVE_TEXT = "negative_image", "negative_text"
"""Where a row's meta and a batch's extra hold the hard negative."""
_REDRAWS = 1000
"""Replacements tried for one bad row; with half of all rows bad the chance to need them all is 1e-301."""
_REMEMBERED = 500_000
"""Captions whose ids are remembered, and keys of broken images, at most."""


class Augment(Protocol):
    """Changes a batch of raw pixels."""

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """New pixels; ``draws`` (b,) uint64 are 64 random bits of this seed, epoch and row."""
        ...


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
        self._augment, self._bad = augment, bad
        self._pixels: Tensor | None = None
        if held is not None:
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
        pixels, negatives, rows = self._images(draft, range(begin, end))
        draws = [hash_int(row.key, seed=self._seed, salt=f"epoch {draft.epoch}") for row in rows]
        texts = [self._pick(row, draw=draw) for row, draw in zip(rows, draws, strict=True)]
        if self._augment is not None:
            # Both of a quadruple alike, so that the change of images is no way to tell them apart.
            bits = np.array(draws, dtype=np.uint64)
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
        return Batch(pixels, self._tokenise(texts), extra)

    def _images(self, draft: Draft, places: range) -> tuple[Tensor, Tensor | None, list[Row]]:
        """(b, 3, H, W) uint8, as many hard negatives if every row has one, and the rows that were used."""
        indices = draft.order[places.start : places.stop].copy()
        opened: list[list[Tensor]] = []
        for number, place in enumerate(places):
            index = int(indices[number])
            attempt = 0
            while (images := self._open(draft.pool[index], index)) is None:
                if attempt == _REDRAWS:
                    raise InputError(f"{self._bad.source}: no good row found to replace {_REDRAWS} bad ones")
                salt = f"instead {draft.epoch} {draft.window} {place} {attempt}"
                index = int(draft.order[hash_int(salt, seed=self._seed) % len(draft.order)])
                attempt += 1
            indices[number] = index
            opened.append(images)
        rows = [draft.pool[index] for index in indices]
        whole = all(row.meta.get(NEGATIVE_IMAGE) is not None for row in rows)
        if self._pixels is not None:
            where = torch.from_numpy(indices)
            return self._pixels[0][where], self._pixels[1][where] if whole else None, rows
        negatives = torch.stack([images[1] for images in opened]) if whole else None
        return torch.stack([images[0] for images in opened]), negatives, rows

    def _open(self, row: Row, index: int) -> list[Tensor] | None:
        """The image of a row and its hard negative (nothing when both are in the table), or None when it is bad."""
        if self._pixels is not None and self._ready[index]:
            return []
        if row.key in self._refused:
            return None
        self._bad.tried(1)
        wanted = [row.image] if row.meta.get(NEGATIVE_IMAGE) is None else [row.image, row.meta[NEGATIVE_IMAGE]]
        try:
            if isinstance(wanted[-1], str):  # a path may lead anywhere
                raise InputError(f"{NEGATIVE_IMAGE}: expected an encoded image or pixels, got a text")
            images = [load(image, self._spec, name=row.key) for image in wanted]  # pyrefly: ignore - load checks
        except InputError as error:
            self._bad.add(row.key, str(error))
            if len(self._refused) < _REMEMBERED:
                self._refused.add(row.key)
            return None
        if self._pixels is None:
            return images
        for table, image in zip(self._pixels, images, strict=False):
            table[index] = image
        self._ready[index] = True
        return []

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
