"""Entries that need no blank beside them, found as sub-strings; all others are still looked up as words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tether.data.curate.metaclip.ngrams import NgramTree
from tether.data.curate.metaclip.spacing import JOINED_RANGES, is_mark, spaced, wrapped


class Automaton:
    """An Aho-Corasick automaton that finds texts, given by position, anywhere in a spaced caption."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Build it; about a microsecond a text."""
        self._texts = tuple(texts)
        self._build()

    def _build(self) -> None:
        import ahocorasick

        self._automaton = ahocorasick.Automaton()
        for index, text in enumerate(self._texts):
            self._automaton.add_word(text, index)
        self._automaton.make_automaton()

    def match(self, text: str) -> list[int]:
        """Positions of the texts in one caption, ascending; the caption is spaced first."""
        return sorted({index for _, index in self._automaton.iter(spaced(text))}) if self._texts else []

    def __getstate__(self) -> tuple[str, ...]:
        return self._texts

    def __setstate__(self, state: tuple[str, ...]) -> None:
        self._texts = state
        self._build()


class JoinedFinder:
    """Finds the entries (given as distinct texts, by position) under the rule of ``spacing.wrapped``.

    An entry with a blank on both sides goes into an ``NgramTree``, which looks whole columns up; one that lacks a
    blank goes into an automaton, which runs over the captions that hold such a character at all.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        """Build both."""
        texts = [wrapped(entry) for entry in entries]
        whole = [text == f" {entry} " for text, entry in zip(texts, entries, strict=True)]
        joined = [entry for entry, plain in zip(entries, whole, strict=True) if not plain]
        self._whole = np.flatnonzero(whole)
        self._joined = np.flatnonzero(np.logical_not(whole))
        self._tree = NgramTree([entry for entry, plain in zip(entries, whole, strict=True) if plain])
        self._automaton = Automaton(list(map(wrapped, joined)))
        ends = {entry[side] for entry in joined for side in (0, -1)}
        marks = "".join(sorted(filter(is_mark, ends)))
        ranges = "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in JOINED_RANGES)
        self._pattern = f"[{ranges}{re.escape(marks)}]"
        self._count = max(len(entries), 1)

    def match(self, text: str) -> list[int]:
        """Positions of the entries in one caption, ascending."""
        whole = self._whole[self._tree.match(text)].tolist()
        return sorted(whole + self._joined[self._automaton.match(text)].tolist())

    def match_column(self, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and entries of all matches in a column, by row, then entry, each once; int64 both."""
        rows, found = self._tree.match_column(texts)
        if not len(self._joined):
            return rows, self._whole[found]
        maybe = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(self._pattern))
        places = np.flatnonzero(maybe.fill_null(False).to_numpy(zero_copy_only=False))
        more = [self._automaton.match(text) for text in texts.take(pa.array(places)).to_pylist()]
        lengths = np.fromiter(map(len, more), np.int64, len(more))
        flat = np.fromiter((index for row in more for index in row), np.int64, int(lengths.sum()))
        packed = np.concatenate(
            (rows * self._count + self._whole[found], np.repeat(places, lengths) * self._count + self._joined[flat])
        )
        packed.sort()
        return packed // self._count, packed % self._count
