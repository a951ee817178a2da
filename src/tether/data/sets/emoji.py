"""OpenMoji's colour drawings with their names: a small, real, licensed set of images and words.

How it is split (fixed; drawn from a hash of the code points, so it does not move when drawings are added):

* ``holdout="sequence"`` (the default): single sequences are held out whatever their siblings do, 10 % for testing
  (some 380) and 4 % for validation. More than half of the test rows are a new tone or gender of something seen, and
  ``variants`` are those: what is asked for is composition. The split to watch a small model learn on.
* ``holdout="base"``: whole base emoji are held out, with all their skin tones and genders. 23.5 % of the bases are
  for testing (their plain drawings, some 390) and 8 % for validation. The rest trains, except for three tenths of its
  skin-tone and gender variants: these are ``variants``, for which every part was seen and the combination was not.
  Much harder: most held-out names ("flamingo") were never read.

Train and test must use the same ``holdout``: the test rows of one are training rows of the other.

Drawings: OpenMoji, https://openmoji.org, CC BY-SA 4.0. Names: Unicode CLDR through the ``emoji`` package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, MinLen

from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.sets.emoji_table import Emoji, Language, drawings, libraries, table
from tether.data.sets.prepare import prepared

Split = Literal["train", "validation", "test", "variants", "all"]
Holdout = Literal["base", "sequence"]

SPLIT_VERSION = 1
"""Counted up when a row changes its split; part of every cache key."""

_BASE_TEST, _BASE_VALIDATION, _VARIANTS = 0.235, 0.08, 0.30
_SEQUENCE_TEST, _SEQUENCE_VALIDATION = 0.10, 0.04


def split_of(row: Emoji, *, holdout: Holdout) -> tuple[Split, ...]:
    """The splits a row belongs to; empty for the variants of held-out bases, which only ``all`` contains."""
    if holdout == "sequence":
        draw = float(hash_uniform([row.code], salt="emoji sequence")[0])
        if draw < _SEQUENCE_TEST:
            return ("test",) if row.is_base else ("test", "variants")
        return ("validation",) if draw < _SEQUENCE_TEST + _SEQUENCE_VALIDATION else ("train",)
    draw = float(hash_uniform([row.base], salt="emoji base")[0])
    if draw < _BASE_TEST + _BASE_VALIDATION:
        held: Split = "test" if draw < _BASE_TEST else "validation"
        return (held,) if row.is_base else ()
    if row.is_base or float(hash_uniform([row.code], salt="emoji variant")[0]) >= _VARIANTS:
        return ("train",)
    return ("variants",)


class EmojiSet(IndexedSource):
    """Emoji drawings at one size with their names, in memory-mapped pixels and as a source of rows.

    Args:
        split: ``train``, ``validation``, ``test``, ``variants`` or ``all``; see the module's text.
        size: height and width in pixels, 8 to 1024.
        languages: whose names become captions, in this order; any of ``LANGUAGES``.
        keywords: ``none``; ``joined``, one more caption that lists them; ``each``, one caption for every keyword.
        holdout: what is held out together, ``sequence`` or ``base``; the same for training and testing.
        background: what the drawing lies on, ``#rrggbb`` or ``white``, ``black``, ``grey``.

    Attributes:
        pixels: (n, size, size, 3) uint8, memory-mapped and read-only.
        rows: the ``Emoji`` of each image.
        captions: the texts of each image; the first is its name in the first language.
    """

    name = "emoji"
    licence = "OpenMoji drawings, CC BY-SA 4.0, https://openmoji.org"

    @checked
    def __init__(
        self,
        *,
        split: Split = "train",
        size: Annotated[int, Ge(8), Le(1024)] = 64,
        languages: Annotated[tuple[Language, ...], MinLen(1)] = ("en",),
        keywords: Literal["none", "joined", "each"] = "none",
        holdout: Holdout = "sequence",
        background: str = "white",
    ) -> None:
        """Choose the rows and render what the cache does not hold yet (about 1 ms a drawing at 64 px)."""
        self.split, self.size, self.holdout, self.languages = split, size, holdout, tuple(languages)
        self.version = f"{SPLIT_VERSION}-{libraries()}"
        self.rows: tuple[Emoji, ...] = tuple(
            row for row in table() if split == "all" or split in split_of(row, holdout=holdout)
        )
        self.captions: list[tuple[str, ...]] = [_captions(row, languages, keywords) for row in self.rows]
        self.pixels: np.ndarray = self._pixels(_hex(background))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """One image with its captions; ``meta`` holds the table's columns."""
        item = self.rows[index]
        names = ("base", "names", "keywords", "group", "subgroup", "tones", "gender")
        meta = {"emoji": item.text} | {name: getattr(item, name) for name in names}
        return Row(item.code, np.asarray(self.pixels[index]), self.captions[index], meta)

    def _pixels(self, background: str) -> np.ndarray:
        def build(folder: Path) -> None:
            shape = (len(self.rows), self.size, self.size, 3)
            out = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
            for index, item in enumerate(self.rows):
                out[index] = render(drawings() / f"{item.code}.svg", size=self.size, background=background)
            out.flush()

        settings = f"{self.holdout}-{self.split}-{self.size}px-{background[1:]}"
        folder = prepared("emoji", key=f"{settings}-{self.version}", build=build)
        return np.load(folder / "pixels.npy", mmap_mode="r")


def render(path: Path, *, size: int, background: str = "#ffffff") -> np.ndarray:
    """One SVG file on a background: (size, size, 3) uint8, antialiased by resvg; text in it is not drawn."""
    import io

    import resvg_py
    from PIL import Image

    encoded = resvg_py.svg_to_bytes(
        svg_path=str(path), width=size, height=size, background=background, skip_system_fonts=True
    )
    with Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def _captions(row: Emoji, languages: Sequence[str], keywords: str) -> tuple[str, ...]:
    texts = [row.names[language] for language in languages if language in row.names]
    if keywords == "each":
        texts += row.keywords
    elif keywords == "joined" and row.keywords:
        texts.append(", ".join(row.keywords))
    return tuple(dict.fromkeys(texts))


def _hex(background: str) -> str:
    named = {"white": "#ffffff", "black": "#000000", "grey": "#808080"}
    colour = named.get(background, background)
    if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise InputError(f"emoji: background: expected #rrggbb, white, black or grey, got {background!r}")
    return colour.lower()
