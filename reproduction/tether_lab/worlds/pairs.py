"""Whole data sets in memory, read once for all who ask."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.in_order import ordered
from tether_lab.lab.lab import Lab

_CACHED_SETS = 8


@dataclass(frozen=True, slots=True)
class Pairs:
    """A data set in memory; entry i of each belongs to image i.

    Attributes:
        keys: of the rows.
        pixels: (n, 3, size, size) uint8; shared by everyone who asks for the same set, so not to be changed.
        texts: the captions of each image.
        meta: the other columns of each row.
    """

    keys: tuple[str, ...]
    pixels: Tensor
    texts: tuple[tuple[str, ...], ...]
    meta: tuple[Mapping[str, object], ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.keys)


@functools.lru_cache(maxsize=_CACHED_SETS)
def load_pairs(spec: str, *, size: int, limit: int | None = None) -> Pairs:
    """A whole data set in memory, kept for the next one who asks.

    Args:
        spec: as for ``tether.data.open_source``, such as ``digits:split=test``.
        size: height and width of the images in pixels.
        limit: how many rows, from the first; None = all.
    """
    keys, pixels, texts, meta = [], [], [], []
    source = open_source(spec, where="lab")
    for rows, images in ordered(source, image_spec=ImageSpec((size, size)), batch_size=256, limit=limit):
        keys += [row.key for row in rows]
        texts += [row.texts for row in rows]
        meta += [row.meta for row in rows]
        pixels.append(images)
    return Pairs(tuple(keys), torch.cat(pixels), tuple(texts), tuple(meta))


def emoji(
    lab: Lab,
    *,
    split: Literal["train", "validation", "test", "variants", "all"],
    size: int = 32,
) -> Pairs:
    """Emoji drawings with their English names; a smoke run gets at most 64 of them."""
    return load_pairs(f"emoji:split={split},size={size},holdout=sequence", size=size, limit=64 if lab.smoke else None)
