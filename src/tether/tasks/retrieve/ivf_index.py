"""An inverted-file index over unit vectors: proposes rows quickly, is never the only copy of anything.

benchmarks/search.py compares it with LanceDB's own IVF-Flat on a million rows of 256: faiss answers in less than half
the time at a higher recall and is built in about a fifth of the time, so faiss it is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tether.core.atomic_io import atomic_path
from tether.core.errors import MissingExtraError

LISTS_PER_ROOT = 2  # lists = this times the square root of the rows
TRAIN_PER_LIST = 48  # sampled rows for each list when the centres are found
TRAIN_ROUNDS = 10
PROBES = 24  # lists looked into for one query
PROPOSE = 4  # rows proposed for each one asked for; they are scored again from the matrix
STALE_GROWTH = 1.5  # centres found on fewer rows than 1 / this of today's no longer spread them evenly


def available() -> bool:
    """Whether the library this needs is installed."""
    return importlib.util.find_spec("faiss") is not None


class InvertedIndex:
    """faiss IVF-Flat with inner product, and the matrix position of each row it holds."""

    def __init__(self, index: Any, *, positions: Int[np.ndarray, " n"], trained_on: int, probes: int = PROBES) -> None:
        """Take a trained faiss index; ``build`` and ``load`` are the usual ways.

        Args:
            index: the faiss index, its rows numbered in the order they were added.
            positions: matrix position of each of those rows, -1 for one that is gone.
            trained_on: rows there were when the centres were found.
            probes: lists looked into for one query; more raises recall and time.
        """
        self._index = index
        self._index.nprobe = probes
        self._positions = positions.astype(np.int64)
        self._trained_on = trained_on

    @classmethod
    def build(
        cls, rows: Float[np.ndarray, "n d"], *, positions: Int[np.ndarray, " n"], seed: int = 0, probes: int = PROBES
    ) -> InvertedIndex:
        """Find centres on a sample drawn with ``seed`` and file every unit row."""
        faiss = _faiss()
        lists = max(1, int(LISTS_PER_ROOT * np.sqrt(len(rows))))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = TRAIN_ROUNDS
        index.cp.seed = seed + 1
        index.cp.min_points_per_centroid = 1  # a small table is no reason to warn
        sample = np.random.default_rng(seed).choice(len(rows), min(len(rows), lists * TRAIN_PER_LIST), replace=False)
        index.train(rows[np.sort(sample)])
        index.add(rows)
        return cls(index, positions=positions, trained_on=len(rows), probes=probes)

    def __len__(self) -> int:
        """Rows filed, those that are gone included."""
        return len(self._positions)

    @property
    def stale(self) -> bool:
        """Whether so many rows came or went since the centres were found that a new build pays."""
        return len(self) > STALE_GROWTH * self._trained_on

    def add(self, rows: Float[np.ndarray, "m d"], *, positions: Int[np.ndarray, " m"]) -> None:
        """File more unit rows under the centres there are."""
        self._index.add(np.ascontiguousarray(rows))
        self._positions = np.concatenate([self._positions, positions.astype(np.int64)])

    def propose(self, query: Float[np.ndarray, " d"], *, top: int) -> Int[np.ndarray, " m"]:
        """Rising positions of likely neighbours of a unit query, a few times ``top`` of them."""
        _, found = self._index.search(query[None], min(PROPOSE * top, len(self)))
        positions = self._positions[found[0][found[0] >= 0]]
        return np.sort(positions[positions >= 0])

    def save(self, path: Path) -> None:
        """Write it atomically."""
        with atomic_path(path) as temporary:
            _faiss().write_index(self._index, str(temporary))

    @classmethod
    def load(cls, path: Path, *, positions: Int[np.ndarray, " n"], probes: int = PROBES) -> InvertedIndex | None:
        """Read what ``save`` wrote; None when it cannot be read or holds another number of rows."""
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path))
        except RuntimeError:
            return None
        if index.ntotal != len(positions):
            return None
        return cls(index, positions=positions, trained_on=len(positions), probes=probes)


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise MissingExtraError("faiss", extra="search") from None
    return faiss
