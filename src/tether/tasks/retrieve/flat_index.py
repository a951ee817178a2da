"""Unit vectors in memory: a matrix that grows, forgets rows, and is scanned exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from tether.core.errors import InputError

How = Literal["exact", "index"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The nearest rows to one query.

    Attributes:
        keys: keys of the rows, best first.
        scores: (k,) float32 cosine similarity in [-1, 1], never rising.
        how: ``exact`` when every row (that passed the filter) was compared, ``index`` when an index or a
            shortlist proposed them.
    """

    keys: tuple[str, ...]
    scores: Float[np.ndarray, " k"]
    how: How = "exact"

    def __len__(self) -> int:
        """How many rows were found; fewer than asked for when the store or the filter holds fewer."""
        return len(self.keys)


def best(scores: Float[np.ndarray, " n"], *, top: int) -> Int[np.ndarray, " k"]:
    """Positions of the ``top`` highest scores, highest first; equal scores keep their order.

    Rows scored minus infinity are never returned. Costs one pass of selection, not a sort.
    """
    if top < len(scores):
        least = np.partition(scores, len(scores) - top)[len(scores) - top]
        chosen = np.flatnonzero(scores >= least)
    else:
        chosen = np.arange(len(scores))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:top]
    return chosen[scores[chosen] > -np.inf]


GROWTH = 1.25  # spare room when the matrix must grow, so that n appends copy each row a bounded number of times
DENSE_SHARE = 0.25  # above this share of wanted rows, scanning all of them beats copying the wanted ones together


def unit(vectors: Float[np.ndarray, "n d"], *, where: str) -> Float[np.ndarray, "n d"]:
    """Vectors scaled to length 1, as a new float32 array."""
    vectors = np.array(vectors, dtype=np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    wrong = ~(np.isfinite(length) & (length > 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        what = "is all zeros" if length[row] == 0 else "is not finite (NaN, infinite or too large)"
        raise InputError(f"{where}: vector {row} {what}; {int(wrong.sum())} of {len(vectors)} are unusable")
    vectors /= length[:, None]
    return vectors


def unit_prefixes(vectors: Float[np.ndarray, "n d"], *, dims: int, where: str) -> Float[np.ndarray, "n k"]:
    """The first numbers of vectors scaled to length 1; zeros, with the cosine 0, if they are and the others are not."""
    first = np.array(vectors[:, :dims], dtype=np.float32)
    empty = np.flatnonzero(np.einsum("nd,nd->n", first, first) == 0)
    empty = empty[vectors[empty, dims:].any(axis=1)]
    first[empty, 0] = 1
    first = unit(first, where=where)
    first[empty] = 0
    return first


class UnitVectors:
    """A float32 matrix of unit rows, with room to grow and a mark on rows that are gone.

    Positions are never reused: a removed row keeps its place until the owner loads the matrix anew.
    """

    def __init__(self, *, dim: int, capacity: int = 0) -> None:
        """An empty matrix of ``dim`` columns, with room for ``capacity`` rows."""
        self._rows = np.empty((capacity, dim), dtype=np.float32)
        self._alive = np.zeros(capacity, dtype=bool)
        self._used = 0
        self.removed = 0

    def __len__(self) -> int:
        """Positions given out so far, removed ones included."""
        return self._used

    @property
    def dim(self) -> int:
        """Columns of the matrix."""
        return self._rows.shape[1]

    @property
    def rows(self) -> Float[np.ndarray, "n d"]:
        """A view of all rows, removed ones included."""
        return self._rows[: self._used]

    @property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Which positions hold a row that was not removed."""
        return self._alive[: self._used]

    def append(self, rows: Float[np.ndarray, "m d"]) -> None:
        """Add unit rows at the end."""
        need = self._used + len(rows)
        if need > len(self._rows):
            capacity = max(need, int(len(self._rows) * GROWTH))
            grown = np.empty((capacity, self.dim), dtype=np.float32)
            grown[: self._used] = self.rows
            alive = np.zeros(capacity, dtype=bool)
            alive[: self._used] = self.alive
            self._rows, self._alive = grown, alive
        self._rows[self._used : need] = rows
        self._alive[self._used : need] = True
        self._used = need

    def remove(self, positions: Int[np.ndarray, " m"]) -> None:
        """Mark rows as gone."""
        self.removed += int(self._alive[np.unique(positions)].sum())
        self._alive[positions] = False

    def scores(
        self, query: Float[np.ndarray, " d"], *, only: Int[np.ndarray, " m"] | None = None, start: int = 0
    ) -> tuple[Int[np.ndarray, " m"] | None, Float[np.ndarray, " m"]]:
        """Cosine of a unit query with rows.

        Args:
            query: unit vector.
            only: rising positions to compare with; all of them when None.
            start: first position compared with when ``only`` is None.

        Returns:
            positions and scores. Positions None means ``start, start + 1, ...``, with removed rows at minus infinity.
        """
        if only is not None and len(only) < DENSE_SHARE * self._used:
            return only, self.rows[only] @ query
        scores = self.rows[start:] @ query
        if only is not None:
            return only, scores[only]
        if self.removed:
            scores[~self.alive[start:]] = -np.inf
        return None, scores
