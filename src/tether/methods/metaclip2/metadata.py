"""Metadata for one language: its words and pairs of words counted, then a list from five sources with caps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked
from tether.data.curate.metaclip.metadata import numbers, pointwise_information
from tether.data.curate.metaclip.spacing import PUNCTUATION, WITHOUT_BLANKS, is_joined

MOST_UNIGRAMS = 251_465  # all caps: arXiv 2507.22062, released build_metadata.py
UNIGRAM_SHARE = 0.1  # of the language's distinct words
MOST_BIGRAMS = 100_646
MINIMUM_PMI = 30.0  # bits; a bigram must lie above it
MOST_TITLES = 61_235
TITLE_SHARE = 0.76  # of the titles at hand
LONGEST = 256  # characters of an entry

Source = Literal["number", "wordnet", "unigram", "bigram", "title"]
_TOKEN_MARKS = PUNCTUATION | {"¿"}  # counting n-grams knows one mark more than matching does
_TAGS = re.compile("&lt;.*?&gt;|<.*?>")
_PAIRS = (*map(tuple, ("()", "[]", "{}", "“”", "‘’", "（）", "【】", "《》", "〈〉", "「」")), ("『 ", "』"))
_PLUS_JOINS = frozenset({"zh", "ja", "fr"})  # languages whose WordNet joins parts of a word by "+"


@checked
@dataclass(frozen=True, slots=True)
class Caps:
    """How many new entries a source may add.

    Attributes:
        unigrams: None: a tenth of the language's words, at most ``MOST_UNIGRAMS``, at least one.
        bigrams: of those above the least PMI.
        titles: None: 76 % of them, at most ``MOST_TITLES``, at least one.
    """

    unigrams: Whole | None = None
    bigrams: Whole = MOST_BIGRAMS
    titles: Whole | None = None


def without_tags(text: str) -> str:
    """The text without HTML tags, plain or escaped."""
    return _TAGS.sub("", text)


def simple_tokens(text: str) -> list[str]:
    """A token for every mark and every letter of a script without blanks; the rest is split at white space."""
    tokens: list[str] = []
    word: list[str] = []
    for character in text:
        alone = character in _TOKEN_MARKS or is_joined(character)
        if alone or character.isspace():
            if word:
                tokens.append("".join(word))
                word = []
            if alone:
                tokens.append(character)
        else:
            word.append(character)
    return [*tokens, "".join(word)] if word else tokens


class LanguageNgrams:
    """Counts words and neighbouring words of one language; counts of shards add.

    Punctuation parts neighbours. In a language without blanks a token that starts with a mark or holds one bracket
    of a pair is skipped and parts neighbours too.

    Source: arXiv 2507.22062, released code (``build_ngram.py``). Its word segmenters for nine languages are models or
    libraries of their own; give one as ``segment``. Without it every letter of such a script is a token.

    Attributes:
        unigrams: count of each word.
        bigrams: count of each pair of neighbours.
    """

    def __init__(self, *, language: str, segment: Callable[[str], Sequence[str]] | None = None) -> None:
        """Start from nothing.

        Args:
            language: metadata language; those of ``spacing.WITHOUT_BLANKS`` follow the stricter rule.
            segment: for a language without blanks, from a piece without white space to its words.
        """
        self.language, self.segment = language, segment
        self.unigrams: Counter[str] = Counter()
        self.bigrams: Counter[tuple[str, str]] = Counter()

    def partial_fit(self, texts: Iterable[str | None]) -> LanguageNgrams:
        """Count texts; tags are stripped first, None has no words."""
        for text in texts:
            if text is not None:
                self.count(self.tokens(without_tags(text)))
        return self

    def tokens(self, text: str) -> list[str]:
        """The words and marks of a text without tags."""
        if self.segment is None or self.language not in WITHOUT_BLANKS:
            return simple_tokens(text)
        return [token for piece in text.split() for token in self.segment(piece)]

    def count(self, tokens: Iterable[str]) -> LanguageNgrams:
        """Count one text that was split into tokens elsewhere."""
        strict = self.language in WITHOUT_BLANKS
        before = None
        for given in tokens:
            token = given.strip()
            if not token:
                continue
            if _TOKEN_MARKS.issuperset(token) or (strict and _odd(token)):
                before = None
                continue
            self.unigrams[token] += 1
            if before is not None:
                self.bigrams[before, token] += 1
            before = token
        return self

    def merge(self, other: LanguageNgrams) -> LanguageNgrams:
        """Add the counts of another shard."""
        if other.language != self.language:
            raise InputError(f"cannot add counts of {other.language!r} to counts of {self.language!r}")
        self.unigrams.update(other.unigrams)
        self.bigrams.update(other.bigrams)
        return self

    def pmi(self, *, minimum: int = 1) -> dict[str, float]:
        """``"a b"`` -> ``log2(n_ab N / (n_a n_b))`` of every pair seen at least ``minimum`` times."""
        return pointwise_information(self.bigrams, unigrams=self.unigrams, minimum=minimum)


def build_language_metadata(
    unigrams: Mapping[str, int],
    *,
    language: str,
    bigrams_pmi: Mapping[str, float] | None = None,
    titles: Mapping[str, float] | None = None,
    wordnet: Iterable[str] = (),
    caps: Caps | None = None,
    minimum_pmi: float = MINIMUM_PMI,
) -> dict[str, Source]:
    """The entries of one language in order, each with the source that brought it first.

    ``0`` to ``99``, WordNet, words by count, bigrams by PMI, titles by views; equal ones keep the order given. Blanks
    around an entry are cut off; empty ones, those of more than 256 characters and those of punctuation alone are left
    out. Caps count entries that are new. In a language without blanks a bigram is joined without one.

    Source: arXiv 2507.22062, released code (``build_metadata.py``), whose bigram cap is absolute although its
    documentation speaks of 40 % of the unigrams. Differs in that WordNet's lemmas are held to 256 characters as well,
    and a cap of 0 adds none (there: one). English has MetaCLIP's own list there.

    Args:
        unigrams: count of each word.
        language: metadata language.
        bigrams_pmi: ``"a b"`` with pointwise mutual information in bits.
        titles: page views of each title.
        wordnet: lemmas.
        caps: of the last three sources.
        minimum_pmi: a bigram must lie above it; 30 needs billions of words, so take far less for a pool.

    Returns:
        entry -> source; ``list(...)`` of it is what ``WorldMatcher`` takes.
    """
    bigrams_pmi, titles, caps = bigrams_pmi or {}, titles or {}, caps or Caps()
    found: dict[str, Source] = dict.fromkeys(numbers(), "number")
    lemmas = (entry.replace("+", "") for entry in wordnet) if language in _PLUS_JOINS else wordnet
    _add(found, lemmas, source="wordnet", cap=None)
    most = caps.unigrams
    if most is None:
        most = min(MOST_UNIGRAMS, max(int(len(unigrams) * UNIGRAM_SHARE), 1))
    _add(found, _by_value(unigrams), source="unigram", cap=most)
    pairs = _by_value({pair: pmi for pair, pmi in bigrams_pmi.items() if pmi > minimum_pmi})
    if language in WITHOUT_BLANKS:
        pairs = [pair.replace(" ", "") for pair in pairs]
    _add(found, pairs, source="bigram", cap=caps.bigrams)
    most = caps.titles
    if most is None:
        most = min(MOST_TITLES, max(int(len(titles) * TITLE_SHARE), 1))
    _add(found, _by_value(titles), source="title", cap=most)
    return found


def _by_value(values: Mapping[str, float]) -> list[str]:
    return sorted(values, key=values.__getitem__, reverse=True)


def _add(found: dict[str, Source], entries: Iterable[str], *, source: Source, cap: int | None) -> None:
    added = 0
    for given in entries:
        if cap is not None and added >= cap:
            return
        entry = given.strip()
        if entry and len(entry) <= LONGEST and not _TOKEN_MARKS.issuperset(entry) and entry not in found:
            found[entry] = source
            added += 1


def _odd(token: str) -> bool:
    """Whether it starts with a mark or holds one bracket of a pair; the last pair has a blank in it, as released."""
    return token[0] in _TOKEN_MARKS or any((left in token) != (right in token) for left, right in _PAIRS)
