"""Of images that look alike, one stays; alike ones are found among millions without comparing all with all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le
from jaxtyping import Bool, Int, UInt8, UInt32, UInt64

from tether.core.ranges import checked
from tether.data.curate.engine.hashing import combined
from tether.data.curate.engine.step import KeptSettings
from tether.data.curate.steps.image_duplicates import Columns, ImageDuplicates, best_of_each, kept_greedily
from tether.data.curate.steps.phash import COLOURS, fingerprints

_BLOCK = 1 << 16  # images or pairs whose colours are looked at together


class NearDuplicates(KeptSettings, ImageDuplicates):
    """Drops images that look like one that stays: copies of other size, quality, format or brightness.

    Two images are alike when their perceptual hashes differ in at most ``distance`` of 64 bits and the mean colours
    of each of 6 x 6 fields by at most ``colour`` of 255. Of those with the same hash and the same colours in steps of
    ``colour + 1`` the best stays; then, from the best to the worst, an image stays when none that stays is alike. So
    no two that stay are alike, and every image that goes has one that stays within ``distance`` bits and twice
    ``colour``. Best is the largest (or none is: ``prefer``), then that of the smallest hash of the key: the order of
    the pool does not matter.

    Rows are compared: a row that stays keeps all its captions. Rows without an image, and images that cannot be
    decoded, stay. Memory: 128 bytes for each image while counting, twice as much when pieces are put together.

    Source: the hash is pHash as the library ImageHash computes it (``phash.fingerprints``).
    """

    refusal = "an image that looks the same stays in its place"
    held: ClassVar[Mapping[str, type[np.generic]]] = {
        "key": np.uint64,
        "shape": np.uint64,
        "colours": np.uint8,
        "pixels": np.uint32,
    }

    @checked
    def __init__(
        self,
        *,
        distance: Annotated[int, Ge(0), Le(16)] = 4,
        colour: Annotated[int, Ge(0), Le(255)] = 24,
        prefer: Literal["largest", "any"] = "largest",
    ) -> None:
        """Say what counts as alike.

        Args:
            distance: bits of 64 by which hashes may differ, 0 to 16; work grows steeply above 8.
            colour: by how much mean colours may differ, 0 to 255; 255 does not look at colour.
            prefer: which of those alike stays.
        """
        self.distance, self.colour = distance, colour
        self.prefer = prefer
        self._clear()

    def read(self, images: pa.BinaryArray) -> tuple[Columns, Bool[np.ndarray, " n"]]:
        """Shape, colours and pixels of images, and which could be decoded."""
        found = fingerprints(images.to_pylist())
        return (found.shape, found.colours, found.pixels), found.readable

    def staying(self, *columns: np.ndarray) -> Bool[np.ndarray, " n"]:
        """Which images stay."""
        key, shape, colours, pixels = columns
        rank = key if self.prefer == "any" else _ranks(key, pixels)
        best = best_of_each(_cells(shape, colours, step=self.colour + 1), rank)
        best = best[np.argsort(rank[best], kind="stable")]
        stays = np.zeros(len(key), np.bool_)
        stays[best] = self._apart(shape, colours, best)
        return stays

    def _apart(
        self, shape: UInt64[np.ndarray, " n"], colours: UInt8[np.ndarray, "n 108"], order: Int[np.ndarray, " m"]
    ) -> Bool[np.ndarray, " m"]:
        """Of the images at ``order``, from the best to the worst, those that are like none before them that stays."""
        better, worse = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for one, other in near_pairs(shape[order], distance=self.distance):
            for start in range(0, len(one), _BLOCK):
                some = np.stack([one[start : start + _BLOCK], other[start : start + _BLOCK]])
                first, second = colours[order[some]]
                some = some[:, (np.maximum(first, second) - np.minimum(first, second)).max(axis=1) <= self.colour]
                better.append(some.min(axis=0))
                worse.append(some.max(axis=0))
        first, second = np.concatenate(better), np.concatenate(worse)
        return kept_greedily(len(order), better=first, worse=second)


def _ranks(key: UInt64[np.ndarray, " n"], pixels: UInt32[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """0 for the largest image, and so on; ties by key."""
    ranks = np.empty(len(key), np.int64)
    ranks[np.lexsort((key, -pixels.astype(np.int64)))] = np.arange(len(key))
    return ranks


def _cells(
    shape: UInt64[np.ndarray, " n"], colours: UInt8[np.ndarray, "n 108"], *, step: int
) -> UInt64[np.ndarray, " n"]:
    """One name for each shape with colours in steps of ``step``."""
    names = []
    for start in range(0, len(shape), _BLOCK):
        level = np.zeros((len(shape[start : start + _BLOCK]), -(-COLOURS // 8) * 8), np.uint8)
        level[:, :COLOURS] = colours[start : start + _BLOCK] // np.int16(step)
        name = shape[start : start + _BLOCK]
        for word in level.view("<u8").T:
            name = combined(name, word)
        names.append(name)
    return np.concatenate(names) if names else shape


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
