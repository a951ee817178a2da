"""Pairs of 64-bit words that differ in few bits, among millions, without comparing all with all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt64

WIDTH = 64
_SORT, _COMPARE = 100.0, 20.0  # nanoseconds for one word to be sorted and for two to be compared
_MOST_TABLES = 300


def differing(first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """In how many bits words differ (Warren, Hacker's Delight, figure 5-2)."""
    words = first ^ second
    words -= (words >> np.uint64(1)) & np.uint64(0x5555555555555555)
    words = (words & np.uint64(0x3333333333333333)) + ((words >> np.uint64(2)) & np.uint64(0x3333333333333333))
    words = (words + (words >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (words * np.uint64(0x0101010101010101)) >> np.uint64(56)


def near_pairs(
    words: UInt64[np.ndarray, " n"], *, distance: int
) -> Iterator[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]]:
    """Positions (i, j) of words at most ``distance`` bits apart, batch by batch; i and j in either order, some twice.

    The bits are cut into ``distance + k`` parts. Two words that near are equal in at least k of them, so for every
    choice of k parts the words are sorted by these and only equal ones compared; k is chosen for the least work. Time
    grows with n log n while n is well below 2^(64 k / (distance + k)); memory with n.
    """
    parts, equal = _cut(len(words), distance=distance)
    edges = np.linspace(0, WIDTH, parts + 1).astype(int)
    masks = [((1 << int(high)) - 1) ^ ((1 << int(low)) - 1) for low, high in itertools.pairwise(edges)]
    for chosen in itertools.combinations(masks, equal):
        kept = words & np.uint64(sum(chosen))
        order = np.argsort(kept, kind="stable")
        kept, ordered = kept[order], words[order]
        same = np.flatnonzero(kept[1:] == kept[:-1])  # places whose next one is equal in the parts
        step = 1
        while len(same):
            near = same[differing(ordered[same], ordered[same + step]) <= distance]
            if len(near):
                yield order[near], order[near + step]
            step += 1
            same = same[same + step < len(kept)]
            same = same[kept[same] == kept[same + step]]


def _cut(count: int, *, distance: int) -> tuple[int, int]:
    """How many parts, and how many of them must be equal."""
    best, cost = (distance + 1, 1), math.inf
    for equal in range(1, 5):
        parts = distance + equal
        tables = math.comb(parts, equal)
        if tables > _MOST_TABLES:
            break
        compared = count / 2 / 2.0 ** (WIDTH * equal / parts)
        work = tables * (_SORT + _COMPARE * compared)
        if work < cost:
            best, cost = (parts, equal), work
    return best
