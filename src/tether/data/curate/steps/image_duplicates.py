"""What steps share that keep one of several alike images: counting, deciding once, and travelling light."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, UInt64

from tether.core.errors import InputError
from tether.data.curate.engine.hashing import hashed, row_keys
from tether.data.curate.engine.step import IMAGE, Counts, State, check_counted, column_of, images_of

Columns = tuple[np.ndarray, ...]


class ImageDuplicates(ABC):
    """Holds a description of every image and drops the rows whose image is like one that stays.

    Rows are compared: a row that stays keeps all its captions. Rows without an image, and images that cannot be
    decoded, stay. Once it was sent to another process it holds the decision alone and counts no more.
    """

    columns: tuple[str, ...] = (IMAGE,)
    counts: Counts = "pool"
    held: ClassVar[Mapping[str, type[np.generic]]]
    """Columns that are held, by their names in the state, and their types; the first is the hash of the row's key."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""

    @abstractmethod
    def read(self, images: pa.BinaryArray) -> tuple[Columns, Bool[np.ndarray, " n"]]:
        """The columns of images after the key, and which could be decoded."""

    @abstractmethod
    def staying(self, *columns: np.ndarray) -> Bool[np.ndarray, " n"]:
        """Which images stay."""

    def _clear(self) -> None:
        self.pairs = self.unreadable = 0
        self._held: list[Columns] = []
        self._leaving: np.ndarray | None = None
        self._images: int | None = None  # of a decision that came without its columns

    def empty(self) -> Self:
        """The same settings without any counts."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__}
        other._clear()
        return other

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Look at the images of one batch; the captions of one row are taken to share its image."""
        self._check_counting()
        images = images_of(rows)
        keys = hashed(row_keys(column_of(rows, "key")))
        self.pairs += rows.num_rows
        first = np.ones(rows.num_rows, np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        index = np.flatnonzero(first & np.asarray(images.is_valid()))
        columns, good = self.read(images.take(pa.array(index, pa.int64())))
        self.unreadable += int((~good).sum())
        self._add((keys[index][good], *(column[good] for column in columns)))
        return self

    def merge(self, other: Self) -> Self:
        """Add the images of another shard."""
        self._check_counting()
        other._check_counting()
        if other.settings != self.settings:
            raise InputError(f"cannot add what was counted with {other.settings} to {self.settings}")
        self.pairs += other.pairs
        self.unreadable += other.unreadable
        self._add(*other._held)
        return self

    def _check_counting(self) -> None:
        if self._images is not None:
            raise InputError("this step was sent from another process with its decision alone; it counts no more")

    def _add(self, *held: Columns) -> None:
        self._held += [columns for columns in held if len(columns[0])]
        self._leaving = None

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs whose image stays, 0 for those whose image is like one that does."""
        check_counted(self.pairs)
        leaving = self._decide()
        wanted = hashed(row_keys(column_of(rows, "key")))
        if not len(leaving):
            return np.ones(rows.num_rows)
        index = np.minimum(np.searchsorted(leaving, wanted), len(leaving) - 1)
        return (leaving[index] != wanted).astype(np.float64)

    def _decide(self) -> UInt64[np.ndarray, " n"]:
        """Hashes of the rows that leave, ascending."""
        if self._leaving is None:
            columns = self._table()
            self._leaving = columns[0][~self.staying(*columns)] if len(columns[0]) else columns[0]
        return self._leaving

    def _table(self) -> Columns:
        """The columns of all images, ascending by key, each key once."""
        if not self._held:
            return tuple(np.zeros(0, kind) for kind in self.held.values())
        if len(self._held) > 1 or (self._held[0][0][1:] <= self._held[0][0][:-1]).any():
            columns = tuple(np.concatenate(column) for column in zip(*self._held, strict=True))
            keys = columns[0]
            order = np.argsort(keys, kind="stable")
            if (keys[order[1:]] == keys[order[:-1]]).any():
                # Of two images under one key, which only a pool that is not sound has, arrival must not choose.
                rows = [b"".join(column.tobytes() for column in row) for row in zip(*columns[1:], strict=True)]
                order = best_of_each(keys, hashed(pa.array(rows, pa.binary())))
            self._held = [tuple(column[order] for column in columns)]
        return self._held[0]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.pairs and self._images is None:  # other processes ask it, and need no columns for that
            state |= {"_leaving": self._decide(), "_images": len(self._table()[0]), "_held": []}
        return state

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """The columns held, and how many pairs and unreadable images were seen."""
        self._check_counting()
        return {**dict(zip(self.held, self._table(), strict=True)), "pairs": self.pairs, "unreadable": self.unreadable}

    def load_state_dict(self, state: State) -> None:
        """Take over what was saved."""
        self._clear()
        self._add(tuple(np.asarray(state[name], kind) for name, kind in self.held.items()))
        self.pairs, self.unreadable = int(state["pairs"]), int(state["unreadable"])

    def report(self) -> dict[str, Any]:
        """Pairs seen, images compared, those that stay, and how many could not be decoded."""
        images = len(self._table()[0]) if self._images is None else self._images
        stay = images - len(self._decide())
        return {"pairs": self.pairs, "images": images, "stay": stay, "unreadable": self.unreadable}


def best_of_each(groups: UInt64[np.ndarray, " n"], rank: np.ndarray) -> Int[np.ndarray, " m"]:
    """Positions of the smallest rank of each group, ascending by group."""
    order = np.lexsort((rank, groups))
    ordered = groups[order]
    return order[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(order)]]


def kept_greedily(
    count: int, *, better: Int[np.ndarray, " m"], worse: Int[np.ndarray, " m"]
) -> Bool[np.ndarray, " count"]:
    """From the first to the last, a thing stays when none before it that stays is alike.

    So no two that stay are alike, and whatever goes is alike to one that stays.

    Args:
        count: how many things there are, the best first.
        better: the smaller number of each pair that is alike; pairs may come twice and in any order.
        worse: its larger number.
    """
    stays = np.zeros(count, np.bool_)
    undecided = np.ones(count, np.bool_)
    while undecided.any():
        waits = np.zeros(count, np.bool_)
        waits[worse] = True  # something better is not decided yet
        stays |= undecided & ~waits
        undecided &= waits
        undecided[worse[stays[better]]] = False
        left = undecided[better] & undecided[worse]
        better, worse = better[left], worse[left]
    return stays
