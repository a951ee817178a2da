"""How many characters must change for one text to become another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tether.core.errors import InputError


def edit_distance(one: str, other: str) -> int:
    """Fewest characters to insert, remove or replace (Levenshtein).

    Example:
        >>> from tether.core.edit_distance import edit_distance
        >>> edit_distance("exit", "text"), edit_distance("", "abc")
        (2, 3)
    """
    if len(one) < len(other):
        one, other = other, one
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for column, against in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != against)))
        before = now
    return before[-1]


class KnownWords:
    """A list of words, in which the nearest to a text is looked up.

    Attributes:
        words: each once, in the order that they were given.

    Raises:
        InputError: no words, or an empty one.

    Example:
        >>> from tether.core.edit_distance import KnownWords
        >>> KnownWords(["exit", "enter", "push"]).nearest("exlt")
        ('exit', 1)
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Take the words."""
        self.words = tuple(dict.fromkeys(words))
        if not self.words or not all(self.words):
            raise InputError(f"words: expected at least one, none of them empty, got {len(self.words)}")
        self._lengths = np.array([len(word) for word in self.words])
        self._letters = np.full((self._lengths.max(), len(self.words)), -1)
        for column, word in enumerate(self.words):
            self._letters[: len(word), column] = [ord(letter) for letter in word]

    def nearest(self, text: str) -> tuple[str, int]:
        """The word of the least edit distance, the first of several, and that distance."""
        before = np.repeat(np.arange(len(self._letters) + 1)[:, None], len(self.words), axis=1)
        for row, letter in enumerate(text, 1):
            now = np.empty_like(before)
            now[0] = row
            now[1:] = np.minimum(before[1:] + 1, before[:-1] + (self._letters != ord(letter)))
            for place in range(1, len(now)):
                np.minimum(now[place], now[place - 1] + 1, out=now[place])
            before = now
        distances = before[self._lengths, np.arange(len(self.words))]
        best = int(distances.argmin())
        return self.words[best], int(distances[best])
