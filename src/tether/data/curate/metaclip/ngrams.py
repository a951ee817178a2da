"""A tree of word sequences, looked up for whole columns of captions at once.

An entry wrapped in blanks is a sub-string of a spaced caption exactly when the entry's blank-separated words stand in
the caption as neighbours. So instead of running over characters, every distinct word of a column is looked up once,
and longer entries are followed word by word with integer arrays. The cost hardly grows with the number of entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tether.data.curate.metaclip.spacing import token_lists, tokens

_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the multiplier of Fibonacci hashing
_BITS_PER_EDGE = 16  # of the bitmap that answers most failing look-ups with one read


class NgramTree:
    """Finds the entries (given as distinct texts, by position) that stand in a caption as whole words."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Build the tree: about 3 us an entry."""
        self._words: dict[str, int] = {}
        words = [[self._words.setdefault(word, len(self._words)) for word in entry.split(" ")] for entry in entries]
        self._width = max(len(self._words), 1)
        self._edges: dict[int, int] = {}  # node * width + word -> node; node w is the one-word sequence of word w
        ends = dict.fromkeys(range(self._width), -1)
        starts = bytearray(self._width)
        for entry, sequence in enumerate(words):
            node = sequence[0]
            for word in sequence[1:]:
                starts[node] = 1
                key = node * self._width + word
                node = self._edges.setdefault(key, len(ends))
                if node == len(ends):
                    ends[node] = -1
                    starts.append(0)
            ends[node] = entry
        self._end_of = list(ends.values())  # the same once more as plain values: read one by one they are faster
        self._starts = bytes(starts)
        self._ends = np.array(self._end_of, np.int64)
        self._inner = np.frombuffer(self._starts, np.bool_)
        keys = np.fromiter(self._edges.keys(), np.int64, len(self._edges))
        children = np.fromiter(self._edges.values(), np.int64, len(self._edges))
        order = np.argsort(keys)
        self._keys, self._children = keys[order], children[order]
        bits = max(int(len(keys) * _BITS_PER_EDGE).bit_length(), 6)
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, np.bool_)
        self._seen[self._slot(keys)] = True

    def _slot(self, keys: np.ndarray) -> np.ndarray:
        return (keys.view(np.uint64) * _HASH) >> self._shift

    def match(self, text: str) -> list[int]:
        """Positions of the entries in one caption, ascending."""
        words = list(map(self._words.get, tokens(text)))
        ends, starts, edges, width = self._end_of, self._starts, self._edges, self._width
        found = set()
        for place, word in enumerate(words, start=1):
            if word is None:
                continue
            found.add(ends[word])
            node = word
            for following in words[place:] if starts[word] else ():
                if following is None:
                    break
                node = edges.get(node * width + following, -1)
                if node < 0:
                    break
                found.add(ends[node])
                if not starts[node]:
                    break
        found.discard(-1)
        return sorted(found)

    def match_column(self, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and entries of all matches in a column, by row, then entry, each once; int64 both."""
        lists = token_lists(texts)
        lengths = np.diff(lists.offsets.to_numpy())
        row = np.repeat(np.arange(len(lists), dtype=np.int64), lengths)
        coded = lists.flatten().dictionary_encode()
        known = [self._words.get(word, -1) for word in coded.dictionary.to_pylist()]
        word = np.array([*known, -1], np.int64)[coded.indices.to_numpy()]
        place = np.flatnonzero(word >= 0)
        node = word[place]
        entry = self._ends[node]
        hit = entry >= 0
        rows, entries = [row[place[hit]]], [entry[hit]]
        inner = self._inner[node]
        place, node = place[inner], node[inner]
        word, row = np.append(word, -1), np.append(row, -1)
        while len(place):
            ahead = place + 1
            # A failing look-up ends the walk: another caption, a word of no entry, or no such sequence.
            going = (row[ahead] == row[place]) & (word[ahead] >= 0)
            place, node = ahead[going], node[going]
            key = node * self._width + word[place]
            maybe = self._seen[self._slot(key)]
            place, key = place[maybe], key[maybe]
            index = np.searchsorted(self._keys, key)
            there = self._keys[np.minimum(index, len(self._keys) - 1)] == key
            place, node = place[there], self._children[index[there]]
            entry = self._ends[node]
            hit = entry >= 0
            rows.append(row[place[hit]])
            entries.append(entry[hit])
            inner = self._inner[node]
            place, node = place[inner], node[inner]
        count = max(int(self._ends.max(initial=0)) + 1, 1)
        packed = np.concatenate(rows) * count + np.concatenate(entries)
        packed.sort()
        packed = packed[np.concatenate(([True], packed[1:] != packed[:-1]))[: len(packed)]]
        return packed // count, packed % count
