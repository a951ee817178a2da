"""How many characters must change for one text to become another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tether.core.errors import InputError
from tether.core.printable import quoted

LONGEST = 1_000
"""Most characters of a known word."""
_CELLS = 2**20  # distances that are held at once


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
        InputError: no words, an empty one, or one of more than ``LONGEST`` characters; it says which.

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
        lengths = np.array([len(word) for word in self.words], dtype=np.int32)
        if lengths[longest := int(lengths.argmax())] > LONGEST:
            raise InputError(
                f"words: number {longest + 1}, {quoted(self.words[longest])}: expected at most {LONGEST:,} characters"
            )
        self._groups = list[tuple[np.ndarray, np.ndarray, np.ndarray]]()  # places in the list, lengths, letters
        order = np.argsort(lengths, kind="stable")
        while len(order):
            most = np.arange(1, len(order) + 1) * (lengths[order].astype(np.int64) + 1)
            some, order = np.split(order, [max(1, int(np.searchsorted(most, _CELLS, side="right")))])
            letters = np.full((int(lengths[some].max()), len(some)), -1, dtype=np.int32)
            for column, place in enumerate(some):
                letters[: lengths[place], column] = [ord(letter) for letter in self.words[place]]
            self._groups.append((some, lengths[some], letters))

    def nearest(self, text: str) -> tuple[str, int]:
        """The word of the least edit distance, the first of several, and that distance."""
        best = (len(text) + LONGEST + 1, -1)
        for places, lengths, letters in self._groups:
            if max(lengths[0] - len(text), len(text) - lengths[-1]) <= best[0]:  # else all have more to add or remove
                distances = _distances(text, lengths, letters)
                least = distances.min()
                best = min(best, (int(least), int(places[distances == least].min())))
        return self.words[best[1]], best[0]


def _distances(text: str, lengths: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """Of a text and each word, a column of letters."""
    ramp = np.arange(len(letters) + 1, dtype=np.int32)[:, None]
    before = np.repeat(ramp, len(lengths), axis=1)
    for row, letter in enumerate(text, 1):
        now = np.empty_like(before)
        now[0] = row
        np.minimum(before[1:] + 1, before[:-1] + (letters != ord(letter)), out=now[1:])
        now -= ramp  # one more for each letter that is left out, so that what follows is a running minimum
        np.minimum.accumulate(now, axis=0, out=now)
        before = now + ramp
    return before[lengths, np.arange(len(lengths))]
