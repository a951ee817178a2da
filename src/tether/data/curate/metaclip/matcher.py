"""Which metadata entries stand in a caption: MetaCLIP's sub-string rule, for one text or whole columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.curate.metaclip.ngrams import NgramTree
from tether.data.curate.metaclip.spacing import spaced, wrapped
from tether.data.curate.metaclip.unsegmented_matcher import Automaton, JoinedFinder

Texts = Sequence[str | None] | pa.Array | pa.ChunkedArray
Backend = Literal["auto", "ngram", "ahocorasick", "naive"]
Wrap = Literal["metaclip", "script"]
OnDuplicate = Literal["raise", "first", "last"]
_CHUNK = 16_384  # captions handled at once: large enough for arrays to pay, small enough to stay in the cache


class _Matches(Protocol):
    def match(self, text: str) -> list[int]: ...


class _Naive:
    """The rule as it is written: one sub-string test for each entry. It is what the others are checked against."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def match(self, text: str) -> list[int]:
        text = spaced(text)
        return [index for index, entry in enumerate(self._texts) if entry in text]


def checked_entries(entries: Sequence[str], *, on_duplicate: OnDuplicate = "raise") -> list[str]:
    """The entries as a list, refused when there is none, one is empty or not a text, or one stands twice."""
    listed = list(entries)
    if not listed:
        raise InputError("entries: the metadata is empty; at least one entry is needed")
    first: dict[str, int] = {}
    for index, entry in enumerate(listed):
        if not isinstance(entry, str):
            raise TypeError(f"entries[{index}]: expected str, got {type(entry).__name__}")
        if not entry:
            raise InputError(f"entries[{index}]: an entry must not be empty")
        if first.setdefault(entry, index) != index and on_duplicate == "raise":
            raise InputError(f"entries[{index}]: {entry!r} already stands at {first[entry]} (on_duplicate='first')")
    return listed


class SubstringMatcher:
    """Finds the metadata entries that a caption contains.

    Entry j belongs to a caption when ``" " + entry + " "`` is a sub-string of the spaced caption
    (``spacing.spaced``). Blanks are not collapsed and case is not folded, so ``hot dog`` is not found in
    ``hot  dog`` or ``hot-dog``, and an entry that holds one of ``,.;:?!``` next to a letter (``St. Louis``) is never
    found. Normalise entries and captions alike (Unicode NFC) or not at all.

    With ``wrap="script"`` the blank on a side is left out where the entry's outer character is a mark or belongs to
    a script that sets none (``spacing.is_joined``): Chinese and Thai words are found inside running text. Kana and
    Hangul keep their blanks, so a katakana word inside running text is not found, and full-width marks of a caption
    are not set apart.

    Source: arXiv 2309.16671 section 3.2 and arXiv 2507.22062 (``script``), each with its released code. All backends
    give the same matches.

    Example:
        >>> from tether.data.curate import Balancer, SubstringMatcher, entry_counts
        >>> entries = ["dog", "fox", "hot dog"]
        >>> indptr, ids = SubstringMatcher(entries).match_many(["a dog!", "a hot dog", "the dog", "a fox", "IMG_0031"])
        >>> counts = entry_counts(indptr, ids, n=len(entries))
        >>> counts.tolist()
        [3, 1, 1]
        >>> Balancer(t=1).fit(counts).pair_prob(indptr, ids).round(2).tolist()  # chance to keep each caption
        [0.33, 1.0, 0.33, 1.0, 0.0]
    """

    @checked
    def __init__(
        self,
        entries: Sequence[str],
        *,
        wrap: Wrap = "metaclip",
        backend: Backend = "auto",
        on_duplicate: OnDuplicate = "raise",
    ) -> None:
        """Build the matcher.

        Args:
            entries: n distinct, non-empty texts; matches are positions in it.
            wrap: what is put around an entry: ``metaclip`` is one blank on both sides, ``script`` goes by its script.
            backend: ``ngram`` looks words up (whole columns at once), ``ahocorasick`` runs pyahocorasick over
                characters, ``naive`` tests every entry; ``auto`` is ``ngram``, the fastest at every size measured.
            on_duplicate: ``first`` or ``last`` lets a repeated entry stand; then only that one of its positions ever
                matches. MetaCLIP 2's code has ``last``.
        """
        self.entries = checked_entries(entries, on_duplicate=on_duplicate)
        self.wrap: Wrap = wrap
        self.backend: Backend = "ngram" if backend == "auto" else backend
        place: dict[str, int] = {}
        for index, entry in enumerate(self.entries):
            if on_duplicate == "last" or entry not in place:
                place[entry] = index
        distinct = sorted(place, key=place.__getitem__)
        self._ids = np.array([place[entry] for entry in distinct], np.int64)
        self._finder: _Matches = self._build(distinct)

    def _build(self, entries: list[str]) -> _Matches:
        if self.backend == "ngram":
            return NgramTree(entries) if self.wrap == "metaclip" else JoinedFinder(entries)
        plain: dict[str, type[_Naive] | type[Automaton]] = {"ahocorasick": Automaton, "naive": _Naive}
        return plain[self.backend](
            [f" {entry} " for entry in entries] if self.wrap == "metaclip" else list(map(wrapped, entries))
        )

    def match(self, text: str | None) -> list[int]:
        """Positions of the entries in one caption, ascending; None has none."""
        if text is None:
            return []
        if not isinstance(text, str):
            raise TypeError(f"caption: expected str or None, got {type(text).__name__}")
        return [int(self._ids[index]) for index in self._finder.match(text)]

    def match_many(self, texts: Texts) -> tuple[Int[np.ndarray, " n+1"], Int[np.ndarray, " m"]]:
        """Matches of many captions as compressed rows: caption i has ``ids[indptr[i]:indptr[i + 1]]``, ascending.

        Args:
            texts: n captions or None, as a sequence or an Arrow string column (not copied).

        Returns:
            int64 (n + 1,) row pointers and int64 (m,) entry positions.
        """
        counts, ids = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
        for chunk in _chunks(texts):
            rows, found = self._match_chunk(chunk)
            counts.append(np.bincount(rows, minlength=len(chunk)))
            ids.append(self._ids[found])
        return np.cumsum(np.concatenate(counts)), np.concatenate(ids)

    def _match_chunk(self, chunk: pa.StringArray | list[str | None]) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self._finder, NgramTree | JoinedFinder) and isinstance(chunk, pa.Array):
            return self._finder.match_column(chunk)
        listed = chunk.to_pylist() if isinstance(chunk, pa.Array) else chunk
        found = [[] if text is None else self._finder.match(text) for text in listed]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        flat = np.fromiter((index for row in found for index in row), np.int64, int(lengths.sum()))
        return np.repeat(np.arange(len(found)), lengths), flat


def _chunks(texts: Texts) -> Iterator[pa.StringArray | list[str | None]]:
    """Columns of at most ``_CHUNK`` captions; a list where Arrow cannot hold one (a lone surrogate is not UTF-8)."""
    if isinstance(texts, (pa.Array, pa.ChunkedArray)):
        whole = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
        if not (pa.types.is_string(whole.type) or pa.types.is_large_string(whole.type) or pa.types.is_null(whole.type)):
            raise TypeError(f"captions: expected a column of strings, got {whole.type}")
        for column in whole.chunks:
            for start in range(0, len(column), _CHUNK):
                yield column.slice(start, _CHUNK).cast(pa.string())
        return
    if isinstance(texts, str):
        raise TypeError("captions: expected a sequence of texts, got one str")
    for start in range(0, len(texts), _CHUNK):
        listed = list(texts[start : start + _CHUNK])
        for kind in set(map(type, listed)) - {str, type(None)}:
            if not issubclass(kind, str):
                place = start + next(index for index, text in enumerate(listed) if type(text) is kind)
                raise TypeError(f"captions[{place}]: expected str or None, got {kind.__name__}")
        try:
            yield pa.array(listed, pa.string())
        except UnicodeEncodeError:
            yield listed
