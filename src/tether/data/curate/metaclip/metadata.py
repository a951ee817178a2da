"""Metadata: the list of text entries that captions are matched with, from word lists or from the pool itself."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tether.core.atomic_io import read_json, read_text
from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.data.curate.metaclip.spacing import MARKS, token_lists

LIMIT = 500_000  # arXiv 2309.16671 section 3.1
WIKIPEDIA_COUNT = 100  # least unigram count, same place
WIKIPEDIA_PMI = 30.0  # least pointwise mutual information of a bigram, in bits, same place
POOL_COUNT = 5  # a pool is far smaller than Wikipedia; rarer words are mostly misspellings
POOL_PMI = 5.0  # bits; 30 cannot be reached by a pool of less than a billion words
_MOST_BIGRAMS = 4_000_000  # kept while counting, about 500 MB; above it those seen once are forgotten
_PUNCTUATION = frozenset(string.punctuation)


@checked
def build_metadata(sources: Iterable[Iterable[str]], *, limit: Count = LIMIT) -> list[str]:
    """Distinct entries in the order of the sources, which matters because it stops at ``limit``.

    Empty texts and single ASCII punctuation marks are left out.

    Source: arXiv 2309.16671 section 3.1; its sources are ``numbers()``, ``wordnet_heads``, ``frequent`` unigrams,
    ``collocations`` and ``frequent`` titles, in that order.
    """
    entries: dict[str, None] = {}
    for source in sources:
        for entry in source:
            if entry and entry not in _PUNCTUATION:
                entries.setdefault(entry)
            if len(entries) >= limit:
                return list(entries)
    return list(entries)


def numbers() -> list[str]:
    """``0`` to ``99``."""
    return [str(number) for number in range(100)]


def wordnet_heads(synsets: Iterable[str]) -> list[str]:
    """Head words of WordNet synset names: ``hot_dog.n.02`` gives ``hot dog``."""
    return [name.split(".")[0].replace("_", " ") for name in synsets]


def frequent(counts: Mapping[str, int], *, minimum: int = WIKIPEDIA_COUNT) -> list[str]:
    """Words (or titles, by views) with at least ``minimum`` counts, most frequent first, ties by word."""
    return sorted((word for word, count in counts.items() if count >= minimum), key=lambda word: (-counts[word], word))


def pointwise_information(
    bigrams: Mapping[tuple[str, str], int], *, unigrams: Mapping[str, int], minimum: int = 1
) -> dict[str, float]:
    """``"a b"`` -> ``log2(n_ab N / (n_a n_b))`` of every pair seen at least ``minimum`` times; N sums the words."""
    total = sum(unigrams.values())
    return {
        f"{first} {second}": math.log2(count * total / (unigrams[first] * unigrams[second]))
        for (first, second), count in bigrams.items()
        if count >= minimum
    }


def collocations(
    bigrams: Mapping[tuple[str, str], int],
    *,
    unigrams: Mapping[str, int],
    minimum_pmi: float = WIKIPEDIA_PMI,
    minimum: int = 1,
) -> list[str]:
    """Pairs of words that stand together far more often than chance, highest first.

    Args:
        bigrams: count of each pair of neighbours.
        unigrams: count of each word; N is their sum.
        minimum_pmi: least pointwise mutual information in bits.
        minimum: least count of the pair.
    """
    scores = pointwise_information(bigrams, unigrams=unigrams, minimum=minimum)
    return [text for score, text in sorted((-score, text) for text, score in scores.items()) if -score >= minimum_pmi]


class NgramCounts:
    """Counts words and neighbouring words of captions, spaced as the matcher spaces them; counts of shards add.

    Attributes:
        unigrams: count of each word that holds something else than punctuation.
        bigrams: count of each pair of such words with one blank between them.
    """

    def __init__(self) -> None:
        """Start from nothing."""
        self.unigrams: Counter[str] = Counter()
        self.bigrams: Counter[tuple[str, str]] = Counter()

    def partial_fit(self, texts: pa.StringArray) -> NgramCounts:
        """Count one column of captions; nulls have no words."""
        lists = token_lists(texts)
        row = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
        coded = lists.flatten().dictionary_encode()
        words = coded.dictionary.to_pylist()
        plain = np.array([bool(word) and not _PUNCTUATION.issuperset(word) for word in words] + [False])
        code = coded.indices.to_numpy()
        counts = np.bincount(code, minlength=len(words))
        self.unigrams.update({word: int(n) for word, n, good in zip(words, counts, plain, strict=False) if good})
        pair = (row[1:] == row[:-1]) & plain[code[1:]] & plain[code[:-1]]
        packed, count = np.unique(code[:-1][pair] * np.int64(len(words)) + code[1:][pair], return_counts=True)
        first, second = np.divmod(packed, max(len(words), 1))
        together = zip(first.tolist(), second.tolist(), count.tolist(), strict=True)
        self.bigrams.update({(words[a], words[b]): n for a, b, n in together})
        if len(self.bigrams) > _MOST_BIGRAMS:
            self.bigrams = Counter({pair: n for pair, n in self.bigrams.items() if n > 1})
        return self

    def merge(self, other: NgramCounts) -> NgramCounts:
        """Add the counts of another shard."""
        self.unigrams.update(other.unigrams)
        self.bigrams.update(other.bigrams)
        return self

    def entries(self, *, limit: int = LIMIT, minimum: int = POOL_COUNT, minimum_pmi: float = POOL_PMI) -> list[str]:
        """Metadata of the pool itself: its frequent words, then its collocations.

        Raises:
            InputError: no word is that frequent.
        """
        pairs = collocations(self.bigrams, unigrams=self.unigrams, minimum_pmi=minimum_pmi, minimum=minimum)
        found = build_metadata([frequent(self.unigrams, minimum=minimum), pairs], limit=limit)
        if not found:
            raise InputError(
                f"no word of the captions stands in them {minimum} times; so few need no balancing: use a recipe "
                f"without metaclip, or ask for fewer (--minimum {max(1, minimum - 1)}), or give a file of entries"
            )
        return found


def read_entries(path: Path) -> list[str]:
    """Entries of a UTF-8 file: one a line, or a JSON list of texts.

    Raises:
        InputError: missing, not UTF-8, not a list of texts, empty, or an entry twice; it names the line.
    """
    if path.suffix == ".json":
        listed = read_json(path)
        if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
            raise InputError(f"{path}: expected a JSON list of texts")
    else:
        # Not splitlines: an entry may hold one of the rarer characters that it also breaks lines at.
        lines = read_text(path).split("\n")
        listed = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
    if not listed:
        raise InputError(f"{path}: no entries")
    first: dict[str, int] = {}
    for line, entry in enumerate(listed, start=1):
        if not entry:
            raise InputError(f"{path}, line {line}: an entry must not be empty")
        if first.setdefault(entry, line) != line:
            raise InputError(f"{path}, line {line}: {entry!r} already stands in line {first[entry]}")
    return listed


def unreachable(entries: Iterable[str]) -> list[str]:
    """Entries that no caption can hold, because a mark or white space that is set apart touches a letter in them."""
    column = pa.array(entries, pa.string())
    touching = pc.MatchSubstringOptions(f"[^ ][{MARKS}]|[{MARKS}][^ ]|[\t\n\r]")
    return column.filter(pc.call_function("match_substring_regex", [column], touching)).to_pylist()
