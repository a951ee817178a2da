"""Which metadata entries stand in a caption when every language has a list of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from tether.core.errors import InputError
from tether.core.model_digest import texts_digest
from tether.data.curate.metaclip.balance import entry_counts
from tether.data.curate.metaclip.matcher import Backend, OnDuplicate, SubstringMatcher, Texts

FALLBACK = "other"
"""The list for captions whose language is unknown or has no list, as MetaCLIP 2 names it."""

Languages = Sequence[str | None] | pa.Array | pa.ChunkedArray


@dataclass(frozen=True, slots=True)
class WorldMatches:
    """Matches of n captions, each in the entries of its own language.

    Attributes:
        codes: names of the lists.
        code: (n,) position in ``codes`` of the list that each caption was matched with; -1 when it has none.
        indptr: (n + 1,) row pointers.
        ids: (m,) positions of entries in their own list, ascending for each caption.
        sizes: number of entries of each list.
        fell_back: (n,) True where the language was unknown or has no list.
    """

    codes: tuple[str, ...]
    code: Int[np.ndarray, " n"]
    indptr: Int[np.ndarray, " n+1"]
    ids: Int[np.ndarray, " m"]
    sizes: tuple[int, ...]
    fell_back: Bool[np.ndarray, " n"]

    def of(self, code: str) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k+1"], Int[np.ndarray, " j"]]:
        """Places of the captions matched with one list, and their matches as compressed rows."""
        places = np.flatnonzero(self.code == self.codes.index(code))
        lengths = np.diff(self.indptr)[places]
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        index = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - self.indptr[places], lengths)
        return places, indptr, self.ids[index]

    def counts(self) -> dict[str, Int[np.ndarray, " entries"]]:
        """Matches of every entry of every list, uint64; counts of shards add."""
        return {
            code: entry_counts(*self.of(code)[1:], n=size) for code, size in zip(self.codes, self.sizes, strict=True)
        }


class WorldMatcher:
    """One ``SubstringMatcher`` for each language, with entries wrapped by script.

    A caption is matched with the list of its language alone. A language that the map does not know, that is empty or
    None, or that has no list goes to the fallback list; without one its captions match nothing. Languages of short
    captions are guessed badly, so keep a fallback.

    Source: arXiv 2507.22062 section 3, released code. Differs in that a language without a list is no error.

    Attributes:
        matchers: by metadata language.
        fell_back: how many captions of each language went to the fallback, over all calls.

    Example:
        >>> from tether.methods.metaclip2 import WorldBalancer, WorldMatcher
        >>> matcher = WorldMatcher({"en": ["dog", "owl"], "zh": ["狗", "猫"]})
        >>> matcher.match("红色的狗", language="zh")  # found inside running text
        [0]
        >>> matches = matcher.match_many(["dog"] * 9 + ["owl"] + ["猫"], languages=["en"] * 10 + ["zh"])
        >>> WorldBalancer(t=1).fit(matches.counts()).pair_prob(matches)[[0, 9, 10]].round(2).tolist()  # to keep each
        [0.11, 1.0, 1.0]
    """

    def __init__(
        self,
        entries: Mapping[str, Sequence[str]],
        *,
        language_map: Mapping[str, str] | None = None,
        fallback: str = FALLBACK,
        backend: Backend = "auto",
        on_duplicate: OnDuplicate = "raise",
    ) -> None:
        """Build the matchers.

        Args:
            entries: the list of each metadata language; each as for ``SubstringMatcher``.
            language_map: from the codes that a language identifier gives to metadata languages; a code that is
                missing, or is mapped to a language without a list (such as ``N/A``), falls back. None: equal codes.
            fallback: name of the list for the rest; it may be missing.
            backend: of every matcher.
            on_duplicate: what a repeated entry of one list means.
        """
        if not entries:
            raise InputError("entries: expected the list of at least one language, got none")
        self.matchers: dict[str, SubstringMatcher] = {}
        for code, listed in entries.items():
            try:
                self.matchers[code] = SubstringMatcher(
                    listed, wrap="script", backend=backend, on_duplicate=on_duplicate
                )
            except (InputError, TypeError) as error:
                raise type(error)(f"{code}: {error}") from None
        self.language_map = None if language_map is None else dict(language_map)
        self.fallback = fallback
        self.codes = tuple(self.matchers)
        self.sizes = tuple(len(matcher.entries) for matcher in self.matchers.values())
        self.digests = {code: texts_digest(matcher.entries) for code, matcher in self.matchers.items()}
        self.fell_back: Counter[str] = Counter()

    def code_of(self, language: str | None) -> str | None:
        """The metadata language of a language; None where there is neither a list for it nor a fallback."""
        code = self._list_of(language)
        return code if code is not None else self.fallback if self.fallback in self.matchers else None

    def knows(self, language: str | None) -> bool:
        """Whether a language has a list of its own."""
        return self._list_of(language) is not None

    def _list_of(self, language: str | None) -> str | None:
        code = language if self.language_map is None else self.language_map.get(language or "")
        return code if code and code in self.matchers else None

    def match(self, text: str | None, *, language: str | None) -> list[int]:
        """Positions of the entries of its language in one caption, ascending."""
        if not self.knows(language):
            self.fell_back[language or ""] += 1
        code = self.code_of(language)
        return [] if code is None else self.matchers[code].match(text)

    def match_many(self, texts: Texts, *, languages: Languages) -> WorldMatches:
        """Matches of many captions.

        Args:
            texts: n captions or None, as a sequence or an Arrow string column.
            languages: n codes or None.
        """
        named = _coded(languages)
        if len(named.indices) != len(texts):
            raise InputError(f"languages: expected one for each of {len(texts)} captions, got {len(named.indices)}")
        known: list[str | None] = [*named.dictionary.to_pylist(), None]
        place = named.indices.fill_null(len(known) - 1).to_numpy()
        goes_to = [self.codes.index(code) if (code := self.code_of(language)) else -1 for language in known]
        falls = np.array([not self.knows(language) for language in known])
        for language, count in zip(known, np.bincount(place, minlength=len(known)).tolist(), strict=True):
            if count and not self.knows(language):
                self.fell_back[language or ""] += count
        code = np.array(goes_to, np.int64)[place]
        indptr, ids = self._match(texts, code)
        return WorldMatches(self.codes, code, indptr, ids, self.sizes, falls[place])

    def _match(self, texts: Texts, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.zeros(len(code), np.int64)
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for index, matcher in enumerate(self.matchers.values()):
            places = np.flatnonzero(code == index)
            if not len(places):
                continue
            pointers, found = matcher.match_many(_taken(texts, places))
            lengths[places] = np.diff(pointers)
            parts.append((np.repeat(places, np.diff(pointers)), found))
        rows = np.concatenate([np.zeros(0, np.int64), *(row for row, _ in parts)])
        ids = np.concatenate([np.zeros(0, np.int64), *(found for _, found in parts)])
        return np.concatenate(([0], np.cumsum(lengths))), ids[np.argsort(rows, kind="stable")]


def _taken(texts: Texts, places: np.ndarray) -> Texts:
    if len(places) == len(texts):
        return texts
    if isinstance(texts, (pa.Array, pa.ChunkedArray)):
        return texts.take(pa.array(places))
    return [texts[place] for place in places.tolist()]


def _coded(languages: Languages) -> pa.DictionaryArray:
    if isinstance(languages, pa.ChunkedArray):
        languages = languages.combine_chunks()
    if not isinstance(languages, pa.Array):
        for place, language in enumerate(languages):
            if not isinstance(language, str | None):
                raise TypeError(f"languages[{place}]: expected str or None, got {type(language).__name__}")
        languages = pa.array(languages, pa.string())
    if pa.types.is_dictionary(languages.type):
        languages = languages.cast(languages.type.value_type)
    kind = languages.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise TypeError(f"languages: expected a column of strings, got {kind}")
    return languages.cast(pa.string()).dictionary_encode()
