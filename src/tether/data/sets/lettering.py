"""Words on drawn signs, one an image, for learning to read and for measuring it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Whole, checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.lettering.signs import GRADES, draw_sign
from tether.data.lettering.signs import lexicon as _lexicon

Grade = Literal["clean", "light", "middle", "heavy", "occluded", "mixed"]
_MIXED: tuple[str, ...] = tuple(GRADES)


class LetteringSet(IndexedSource):
    """Signs with a word each, drawn on the fly; row i of a split is the same whatever is read before it.

    The words are made of syllables (``data.lettering.signs.lexicon``); half of them are never on a sign of ``train``.

    Args:
        split: ``train``, ``validation`` or ``test``; each draws its own signs.
        rows: how many signs.
        words: ``known``, those of the half that ``train`` shows; or ``unseen``, of the other half, not for ``train``.
        lexicon: words of both halves.
        longest: most letters of a word.
        grade: how worn the signs are, of ``GRADES``, or ``mixed``. A row has the same sign in every other grade.
        height: of a sign in pixels.
        width: of a sign in pixels.
        fonts: TrueType or OpenType files; none takes the free one that Pillow brings.
        seed: another seed is another set of the same kind.

    Raises:
        InputError: unseen words to learn from, or a font that cannot be read.
    """

    name = "lettering"

    @checked
    def __init__(
        self,
        *,
        split: Literal["train", "validation", "test"] = "train",
        rows: Annotated[int, Ge(1), Le(2**40)] = 10_000,
        words: Literal["known", "unseen"] = "known",
        lexicon: Annotated[int, Ge(2), Le(5_000)] = 2_000,
        longest: Annotated[int, Ge(4), Le(25)] = 8,
        grade: Grade = "clean",
        height: Annotated[int, Ge(8), Le(512)] = 32,
        width: Annotated[int, Ge(8), Le(2048)] = 128,
        fonts: tuple[str, ...] = (),
        seed: Whole = 0,
    ) -> None:
        """Make the words; no sign is drawn yet."""
        if split == "train" and words == "unseen":
            raise InputError("words: expected known for train, got unseen")
        self.split, self.words, self.grade, self.seed = split, words, grade, seed
        self.size, self.fonts, self._rows = (height, width), fonts, rows
        both = _lexicon(lexicon, longest=longest, seed=seed)
        self.lexicon = both[: len(both) // 2] if words == "known" else both[len(both) // 2 :]
        settings = (split, words, lexicon, longest, grade, height, width, fonts, seed)
        self.version = f"1-{hash_int(repr(settings)):016x}"

    def __len__(self) -> int:
        """Number of signs."""
        return self._rows

    def row(self, index: int) -> Row:
        """One sign; its caption is its word."""
        rng = np.random.default_rng(hash_int(f"{self.split} {self.words} {index}", seed=self.seed, salt="lettering"))
        word = self.lexicon[int(rng.integers(len(self.lexicon)))]
        mixed = _MIXED[int(rng.integers(len(_MIXED)))]
        grade = mixed if self.grade == "mixed" else self.grade
        height, width = self.size
        pixels = draw_sign(word, rng=rng, height=height, width=width, wear=GRADES[grade], fonts=self.fonts)
        return Row(f"{index:09d}", pixels, (word,), {"word": word, "grade": grade})
