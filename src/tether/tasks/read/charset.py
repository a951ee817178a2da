"""Words as numbers of characters, and back."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tether.core.errors import InputError
from tether.core.printable import printable, quoted
from tether.core.words_read import Texts

EOS = 0
"""Number of the end of a word; characters have 1 and higher."""
PRINTABLE = string.printable[:94]
"""Digits, letters and punctuation of ASCII, as CLIP4STR reads them."""


@dataclass(frozen=True, slots=True)
class Charset:
    """The characters that a reader knows. The end of a word is 0, characters count from 1, begin and padding follow.

    Source: CLIP4STR (arXiv 2305.14014) and PARSeq (arXiv 2207.06966).

    Attributes:
        characters: each of them once.

    Raises:
        InputError: none, one that comes twice, or one that is no letter but tells a terminal or a line of text what to
            do.

    Example:
        >>> from tether.tasks.read import Charset
        >>> Charset("abc").encode(["cab", "b"], longest=4).tolist()
        [[4, 3, 1, 2, 0], [4, 2, 0, 5, 5]]
    """

    characters: str = PRINTABLE

    def __post_init__(self) -> None:
        """Refuse a character that comes twice, or is none."""
        if not isinstance(self.characters, str):
            raise InputError(f"characters: expected a text of them, got {quoted(self.characters)}")
        twice = sorted(one for one, count in Counter(self.characters).items() if count > 1)
        if not self.characters or twice:
            raise InputError(f"characters: expected each once, got {quoted(''.join(twice) or 'none')}")
        if unseen := unreadable(self.characters):
            raise InputError(f"characters: expected letters, got {quoted(unseen)} among them")

    @property
    def bos(self) -> int:
        """Number of a word's begin."""
        return len(self.characters) + 1

    @property
    def pad(self) -> int:
        """Number of the padding after a word's end."""
        return len(self.characters) + 2

    @property
    def classes(self) -> int:
        """What a reader chooses from: the end and each character."""
        return len(self.characters) + 1

    def encode(self, words: Sequence[str], *, longest: int) -> Int[Tensor, "b l"]:
        """Begin, characters, end, and padding up to the longest word.

        Args:
            words: at least one; an empty one is its end alone.
            longest: most characters that a word may have.

        Raises:
            InputError: no words, one with too many characters, or with others than these.
        """
        if isinstance(words, str) or not words:
            raise InputError(f"words: expected a list of at least one, got {quoted(words)}")
        known = set(self.characters)
        for row, word in enumerate(words):
            if len(word) > longest:
                raise InputError(f"word {row}, {quoted(word)}: expected at most {longest} characters, got {len(word)}")
            if unknown := sorted(set(word) - known):
                raise InputError(f"word {row}, {quoted(word)}: unknown characters {quoted(''.join(unknown))}")
        number = {character: index for index, character in enumerate(self.characters, 1)}
        rows = [torch.tensor([self.bos, *(number[one] for one in word), EOS]) for word in words]
        return pad_sequence(rows, batch_first=True, padding_value=self.pad)

    def words(self, ids: Int[Tensor, "b l"]) -> list[str]:
        """Characters before the first end, of what a reader chose."""
        return ["".join(self.characters[one - 1] for one in _before_end(row)) for row in ids.tolist()]

    def decode(self, logits: Float[Tensor, "b l c"]) -> Texts:
        """The most probable character of each place up to the first end, and the product of their probabilities."""
        chances, ids = logits.detach().double().softmax(-1).max(-1)
        after = (ids == EOS).cumsum(1) - (ids == EOS).long() > 0
        sure = chances.masked_fill(after, 1.0).prod(1).clamp(max=1.0)
        return Texts(tuple(self.words(ids)), sure.cpu().numpy().astype(np.float64))

    def cased(self, word: str) -> str:
        """The word in the case of these characters, where they have but one."""
        if self.characters == self.characters.lower():
            return word.lower()
        return word.upper() if self.characters == self.characters.upper() else word

    def spell(self, word: str) -> str:
        """The word in these characters: in their case where they have but one, without characters that they lack."""
        return "".join(one for one in self.cased(word) if one in self.characters)


def unreadable(text: str) -> str:
    """The characters of a text, each once, that cannot be read: controls, overrides of direction, half characters."""
    return "".join(sorted(one for one in set(text) if printable(one) != one))


def _before_end(row: Iterable[int]) -> list[int]:
    found = []
    for one in row:
        if one == EOS:
            break
        found.append(one)
    return found
