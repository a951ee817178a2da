"""Edit distance, and the nearest of known words."""

from __future__ import annotations

import numpy as np
import pytest

from tether.core.edit_distance import KnownWords, edit_distance
from tether.core.errors import InputError


def plain(one: str, other: str) -> int:
    """By its definition."""
    if not one or not other:
        return len(one) + len(other)
    if one[-1] == other[-1]:
        return plain(one[:-1], other[:-1])
    return 1 + min(plain(one[:-1], other), plain(one, other[:-1]), plain(one[:-1], other[:-1]))


def drawn(rng: np.random.Generator) -> str:
    return "".join("ab\u00e9"[letter] for letter in rng.integers(0, 3, rng.integers(0, 6)))


def test_distances_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(60):
        one, other = drawn(rng), drawn(rng)
        assert edit_distance(one, other) == edit_distance(other, one) == plain(one, other)


def test_the_nearest_word_is_that_of_all_distances():
    rng = np.random.default_rng(1)
    words = [drawn(rng) + "a" for _ in range(20)]
    known = KnownWords([*words, words[0]])
    assert len(known.words) == len(set(words))
    for _ in range(30):
        text = drawn(rng)
        distances = [plain(text, word) for word in known.words]
        assert known.nearest(text) == (known.words[int(np.argmin(distances))], min(distances))


def test_a_long_word_among_many_short_ones_needs_little_memory():
    words = [f"{number:05d}" for number in range(20_000)]
    known = KnownWords([*words, "x" * 1000])
    assert known.nearest("00042") == ("00042", 0)
    assert known.nearest("x" * 998) == ("x" * 1000, 2)
    assert sum(letters.nbytes for _, _, letters in known._groups) < 2**21
    assert known.nearest("") == ("00000", 5)
    with pytest.raises(InputError, match=r"words: number 2, 'xxx.*: expected at most 1,000 characters"):
        KnownWords(["a", "x" * 1001])


@pytest.mark.parametrize("words", [[], ["exit", ""]])
def test_known_words_that_are_none(words):
    with pytest.raises(InputError, match="expected at least one, none of them empty"):
        KnownWords(words)
