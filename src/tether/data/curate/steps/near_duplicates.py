"""Of images that look alike, one stays."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, UInt8, UInt32, UInt64

from tether.core.errors import InputError
from tether.data.curate.engine.hashing import combined, hashed, row_keys
from tether.data.curate.engine.stateless import column_of, images_of
from tether.data.curate.engine.step import IMAGE, Counts, State
from tether.data.curate.steps.greedy_dedup import staying
from tether.data.curate.steps.hamming import near_pairs
from tether.data.curate.steps.phash import COLOURS, fingerprints

_MOST = 16
_BLOCK = 1 << 16  # images or pairs whose colours are looked at together
_STATE = ("key", "shape", "colours", "pixels")


class NearDuplicates:
    """Drops images that look like one that stays: copies of other size, quality, format or brightness.

    Two images are alike when their perceptual hashes differ in at most ``distance`` of 64 bits and the mean colours
    of each of 6 x 6 fields by at most ``colour`` of 255. Of those with the same hash and the same colours in steps of
    ``colour + 1`` the best stays; then, from the best to the worst, an image stays when none that stays is alike. So
    no two that stay are alike, and every image that goes has one that stays within ``distance`` bits and twice
    ``colour``. Best is the largest (or none is: ``prefer``), then that of the smallest hash of the key: the order of
    the pool does not matter.

    Rows are compared: a row that stays keeps all its captions. Rows without an image, and images that cannot be
    decoded, stay. Memory: 128 bytes for each image while counting, twice as much when pieces are put together.
    Once it was sent to another process it holds the decision alone and counts no more.

    Source: the hash is pHash as the library ImageHash computes it (``perceptual.fingerprints``).
    """

    refusal = "an image that looks the same stays in its place"
    columns: tuple[str, ...] = (IMAGE,)
    counts: Counts = "pool"

    def __init__(self, *, distance: int = 4, colour: int = 24, prefer: Literal["largest", "any"] = "largest") -> None:
        """Say what counts as alike.

        Args:
            distance: bits of 64 by which hashes may differ, 0 to 16; work grows steeply above 8.
            colour: by how much mean colours may differ, 0 to 255; 255 does not look at colour.
            prefer: which of those alike stays.
        """
        if not 0 <= distance <= _MOST:
            raise InputError(f"distance: expected 0 to {_MOST}, got {distance}")
        if not 0 <= colour <= 255:
            raise InputError(f"colour: expected 0 to 255, got {colour}")
        if prefer not in ("largest", "any"):
            raise InputError(f"prefer: expected largest or any, got {prefer!r}")
        self.distance, self.colour = distance, colour
        self.prefer: Literal["largest", "any"] = prefer
        self._clear()

    def _clear(self) -> None:
        self.pairs = self.unreadable = 0
        self._held: list[tuple[np.ndarray, ...]] = []
        self._leaving: np.ndarray | None = None
        self._images: int | None = None  # of a decision that came without its fingerprints

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords."""
        return {"distance": self.distance, "colour": self.colour, "prefer": self.prefer}

    def empty(self) -> Self:
        """The same settings without any counts."""
        return type(self)(distance=self.distance, colour=self.colour, prefer=self.prefer)

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Look at the images of one batch; the captions of one row are taken to share its image."""
        self._counting()
        images = images_of(rows)
        keys = hashed(row_keys(column_of(rows, "key")))
        self.pairs += rows.num_rows
        first = np.ones(rows.num_rows, np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        place = np.flatnonzero(first & np.asarray(images.is_valid()))
        prints = fingerprints(images.take(pa.array(place, pa.int64())).to_pylist())
        good = prints.readable
        self.unreadable += int((~good).sum())
        self._add((keys[place][good], prints.shape[good], prints.colours[good], prints.pixels[good]))
        return self

    def merge(self, other: Self) -> Self:
        """Add the images of another shard."""
        self._counting()
        other._counting()
        if other.settings != self.settings:
            raise InputError(f"cannot add what was counted with {other.settings} to {self.settings}")
        self.pairs += other.pairs
        self.unreadable += other.unreadable
        self._add(*other._held)
        return self

    def _add(self, *held: tuple[np.ndarray, ...]) -> None:
        self._held += held
        self._leaving = None

    def _counting(self) -> None:
        if self._images is not None:
            raise InputError("this step was sent from another process with its decision alone; it counts no more")

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs whose image stays, 0 for those whose image is like one that does."""
        if not self.pairs:
            raise InputError("nothing was counted yet; call partial_fit over the whole pool first")
        leaving = self._decide()
        wanted = hashed(row_keys(column_of(rows, "key")))
        if not len(leaving):
            return np.ones(rows.num_rows)
        place = np.minimum(np.searchsorted(leaving, wanted), len(leaving) - 1)
        return (leaving[place] != wanted).astype(np.float64)

    def _table(
        self,
    ) -> tuple[
        UInt64[np.ndarray, " n"], UInt64[np.ndarray, " n"], UInt8[np.ndarray, "n 108"], UInt32[np.ndarray, " n"]
    ]:
        """Key, shape, colours and pixels of each image, ascending by key, each key once."""
        if len(self._held) != 1:
            empty = (np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros((0, COLOURS), np.uint8))
            held = [(*empty, np.zeros(0, np.uint32)), *self._held]
            columns = [np.concatenate(column) for column in zip(*held, strict=True)]
            self._held = [tuple(columns)]
        key, shape, colours, pixels = self._held[0]
        if (key[1:] <= key[:-1]).any():
            # Of two images under one key, which only a pool that is not sound has, the choice must not be by arrival.
            first = _best_of_each(key, combined(_cells(shape, colours, step=1), pixels.astype(np.uint64)))
            key, shape, colours, pixels = (column[first] for column in (key, shape, colours, pixels))
            self._held = [(key, shape, colours, pixels)]
        return key, shape, colours, pixels

    def _decide(self) -> UInt64[np.ndarray, " n"]:
        """Hashes of the rows that leave, ascending."""
        if self._leaving is None:
            key, shape, colours, pixels = self._table()
            rank = key if self.prefer == "any" else _ranks(key, pixels)
            best = _best_of_each(_cells(shape, colours, step=self.colour + 1), rank)
            best = best[np.argsort(rank[best], kind="stable")]
            stays = np.zeros(len(key), np.bool_)
            stays[best] = self._apart(shape, colours, best)
            self._leaving = key[~stays]
        return self._leaving

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
        return staying(len(order), better=first, worse=second)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.pairs and self._images is None:  # other processes ask it, and need no fingerprints for that
            state |= {"_leaving": self._decide(), "_images": len(self._table()[0]), "_held": []}
        return state

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Key, shape, colours and size of each image, and how many pairs and unreadable images were seen."""
        self._counting()
        return {**dict(zip(_STATE, self._table(), strict=True)), "pairs": self.pairs, "unreadable": self.unreadable}

    def load_state_dict(self, state: State) -> None:
        """Take over what was saved."""
        self._clear()
        self._add(tuple(np.asarray(state[name]) for name in _STATE))
        self.pairs, self.unreadable = int(state["pairs"]), int(state["unreadable"])

    def report(self) -> dict[str, Any]:
        """Pairs seen, images compared, those that stay, and how many could not be decoded."""
        images = len(self._table()[0]) if self._images is None else self._images
        stay = images - len(self._decide())
        return {"pairs": self.pairs, "images": images, "stay": stay, "unreadable": self.unreadable}


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


def _best_of_each(cells: UInt64[np.ndarray, " n"], rank: np.ndarray) -> Int[np.ndarray, " m"]:
    """Positions of the best image of each cell, ascending by cell."""
    order = np.lexsort((rank, cells))
    ordered = cells[order]
    return order[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(order)]]
