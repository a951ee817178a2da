"""Words that stand out in one set of captions against another, weighted by chi-squared (arXiv 2202.06675)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked

Missing = Literal["min", "hundred"]
COLLOCATION = 30.0  # released wordclouds/utils.py
ABSENT = 100.0  # released wordclouds/utils.py: larger than any relative frequency, so such a word gets weight 0
_SMALLEST = 1e-10  # keeps a logarithm finite
# Marks that combine with letters, and scripts whose vowel signs Python does not count as parts of a word.
_JOINED = "\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0e7f\u0f00-\u0fff"
_WORD = re.compile(rf"[^\W_](?:[\w'’\u200c\u200d{_JOINED}]*)")


@dataclass(frozen=True, slots=True)
class WordContrast:
    """How much more often words come in one text than in another.

    Attributes:
        weights: of every word observed, in the order of the observation; 0 where it is not more frequent than expected.
        total: sum of the weights.
        count: how many words are at least as frequent as expected.
    """

    weights: Mapping[str, float]
    total: float
    count: int

    def top(self, k: int) -> tuple[tuple[str, float], ...]:
        """The ``k`` heaviest words with a weight above 0, heaviest first, ties by the alphabet."""
        found = [(word, weight) for word, weight in self.weights.items() if weight > 0]
        return tuple(sorted(found, key=lambda item: (-item[1], item[0]))[:k])


@checked
def chi_squared_weights(
    observed: Mapping[str, float], *, expected: Mapping[str, float], missing: Missing = "min"
) -> WordContrast:
    """(o - e)^2 / e for each word that is observed at least as often as expected, 0 for the others.

    Source: arXiv 2202.06675, section 4, and its released wordclouds/utils.py. The release takes 100 for a word that the
    reference lacks, which hides exactly the words that only flagged captions have; here the smallest of the reference
    stands for it unless ``hundred`` is asked for.

    Args:
        observed: relative frequency of each word (>= 0).
        expected: relative frequency in the reference (> 0).
        missing: what a word is expected to be that the reference lacks.
    """
    if not expected:
        raise InputError("expected: the reference holds no word to compare with")
    for name, table, least in (("observed", observed, 0.0), ("expected", expected, math.ulp(0.0))):
        for word, value in table.items():
            if not (value >= least and math.isfinite(value)):
                raise InputError(
                    f"{name}: expected a frequency {'above' if least else 'of at least'} 0, got {value!r} for {word!r}"
                )
    absent = ABSENT if missing == "hundred" else min(expected.values())
    weights, total, count = {}, 0.0, 0
    for word, value in observed.items():
        reference = expected.get(word, absent)
        weights[word] = 0.0
        if value >= reference:
            weights[word] = (value - reference) ** 2 / reference
            total += weights[word]
            count += 1
    return WordContrast(weights, total, count)


@checked
def word_frequencies(
    texts: Iterable[str],
    *,
    ngrams: Sequence[int] = (1, 2),
    collocation: NonNegative = COLLOCATION,
    stop_words: Collection[str] | None = None,
) -> dict[str, float]:
    """How often words and fixed pairs of words come, relative to the most frequent one.

    A pair that comes together far more often than its words would by chance (Dunning's log-likelihood ratio above
    ``collocation``) counts as one term, and its words count without it. Stop words and bare numbers are left out.

    Source: arXiv 2202.06675, whose release uses the library wordcloud. It differs in that pairs do not reach across
    captions, plurals are not folded, and the stop words are scikit-learn's.

    Args:
        texts: captions in any script; case does not matter.
        ngrams: (1,) for words alone, (1, 2) for pairs as well.
        collocation: least ratio of a pair.
        stop_words: in lower case; None takes scikit-learn's English list.

    Returns:
        Term to frequency in (0, 1], most frequent first, ties by the alphabet; empty where there is no word.
    """
    if tuple(ngrams) not in ((1,), (1, 2)):
        raise InputError(f"ngrams: expected (1,) or (1, 2), got {ngrams!r}")
    if isinstance(texts, str):
        raise InputError(f"texts: expected a list of strings, got one string {texts!r:.60}")
    left_out = _english() if stop_words is None else frozenset(stop_words)
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"texts: expected strings, got {text!r:.60}")
        every = words_of(text)
        words.update(word for word in every if word not in left_out)
        if len(ngrams) > 1:
            pairs.update(pair for pair in pairwise(every) if not left_out.intersection(pair))
    whole = words.total()
    terms = dict(words)
    for (first, second), together in pairs.items():
        if _ratio(together, first=words[first], second=words[second], whole=whole) > collocation:
            terms[f"{first} {second}"] = together
            terms[first] -= together
            terms[second] -= together
    terms = {term: count for term, count in terms.items() if count > 0}
    most = max(terms.values(), default=1)
    return {term: count / most for term, count in sorted(terms.items(), key=lambda item: (-item[1], item[0]))}


def contrast_words(
    flagged_texts: Iterable[str],
    *,
    other_texts: Iterable[str],
    ngrams: Sequence[int] = (1, 2),
    missing: Missing = "min",
    collocation: float = COLLOCATION,
    stop_words: Collection[str] | None = None,
) -> WordContrast:
    """Words and pairs of words by how much more frequent they are in one set of captions than in another.

    Args:
        flagged_texts: captions that are described.
        other_texts: captions they are held against.
        ngrams: as ``word_frequencies``.
        missing: as ``chi_squared_weights``.
        collocation: as ``word_frequencies``.
        stop_words: as ``word_frequencies``.
    """
    observed, expected = (
        word_frequencies(texts, ngrams=ngrams, collocation=collocation, stop_words=stop_words)
        for texts in (flagged_texts, other_texts)
    )
    return chi_squared_weights(observed, expected=expected, missing=missing)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case and NFC, without a possessive s; bare numbers are none."""
    found = (match.removesuffix("'s").removesuffix("’s") for match in _WORD.findall(_plain(text)))
    return [word for word in found if word and not word.isnumeric()]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def _english() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS


def _ratio(together: int, *, first: int, second: int, whole: int) -> float:
    """Dunning's ratio of a pair (Accurate Methods for the Statistics of Surprise and Coincidence, 1993)."""
    if whole <= max(first, second):
        return 0.0

    def fits(count: int, of: int, chance: float) -> float:
        yes, no = max(chance, _SMALLEST), max(1 - chance, _SMALLEST)
        return count * math.log(yes) + (of - count) * math.log(no)

    rest, apart = whole - first, second - together
    both = fits(together, first, second / whole) + fits(apart, rest, second / whole)
    each = fits(together, first, together / first) + fits(apart, rest, apart / rest)
    return 2 * (each - both)
