"""MetaCLIP's balancing: frequent entries are thinned until none is backed by much more than t pairs."""

from __future__ import annotations

import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Share, checked

Threshold = Annotated[float, Ge(1), Le(math.inf)]
RandomState = int | random.Random | np.random.RandomState | np.random.Generator


def entry_counts(indptr: np.ndarray, ids: np.ndarray, *, n: int) -> Int[np.ndarray, " n"]:
    """How many (caption, entry) matches each of ``n`` entries has, uint64; counts of shards add."""
    _check_rows(indptr, ids, n=n)
    return np.bincount(ids, minlength=n).astype(np.uint64)


def tail_share(counts: np.ndarray, *, t: float) -> float:
    """Fraction of all matches that belongs to entries with strictly fewer than ``t`` matches."""
    counts = np.asarray(counts, np.uint64)
    if not counts.sum():
        raise InputError("counts: no entry has a match, so there is no tail share")
    return float(counts[counts < t].sum() / counts.sum())


@checked
def threshold_for_share(counts: np.ndarray, *, share: Share) -> int:
    """The count t at which the matches of all entries up to t come nearest to ``share`` (0 to 1) of all; first of ties.

    Source: arXiv 2507.22062, released code (``p_to_t``).
    """
    counts = np.sort(np.asarray(counts, np.uint64))
    if not len(counts) or not counts.sum():
        raise InputError("counts: no entry has a match, so there is no threshold for a share")
    return int(counts[np.abs(np.cumsum(counts) / counts.sum() - share).argmin()])


class FittedOnCounts(ABC):
    """What is fitted on counts and saved by them.

    Attributes:
        counts_: what it was fitted on.
    """

    counts_: Any

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Constructor keywords."""

    @abstractmethod
    def fit(self, counts: Any) -> Self:
        """Set the probabilities."""

    def _check_fitted(self) -> None:
        if "counts_" not in self.__dict__:
            raise InputError("this balancer has no counts yet; call fit(counts) first")

    def state_dict(self) -> dict[str, Any]:
        """Settings and counts (lists) as plain values."""
        counts = self.__dict__.get("counts_")
        if isinstance(counts, Mapping):
            plain = {name: each.tolist() for name, each in counts.items()}
        else:
            plain = None if counts is None else counts.tolist()
        return {**self.settings, "counts": plain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            InputError: saved with other settings.
        """
        theirs = {name: state[name] for name in self.settings}
        if theirs != self.settings:
            raise InputError(f"state of {theirs} does not fit a balancer of {self.settings}")
        if state["counts"] is not None:
            self.fit(state["counts"])


class Balancer(FittedOnCounts):
    """Keeps a caption when at least one of its entries wins its own draw.

    Entry j wins with ``p_j = t / max(n_j, t)``, n_j being its number of matches; so an entry of at most t matches is
    always kept, and a caption is kept with probability ``1 - prod(1 - p_j)`` over its entries, unmatched ones never.
    Count after download, deduplication and safety filters and after evaluation data is split off: t means nothing else.

    Source: arXiv 2309.16671 section 3.3. Differs from its ``balancing.py`` in that a record with two winning texts
    stays one record.

    Attributes:
        counts_: (n,) uint64 matches of each entry.
        t_: the threshold in force.
        entry_prob_: (n,) float64 in (0, 1].
    """

    counts_: np.ndarray
    t_: float
    entry_prob_: np.ndarray

    @checked
    def __init__(self, *, t: Threshold | None = None, tail_share: Share | None = None) -> None:
        """Take a threshold, or the fraction of matches that shall lie in the tail.

        Args:
            t: at least 1; 20,000 suits 400 M pairs and 170,000 suits 2.5 B (paper); infinity keeps all matched.
            tail_share: 0 to 1; t is then chosen at ``fit`` by ``threshold_for_share`` (at least 1).
        """
        if (t is None) == (tail_share is None):
            raise InputError(f"expected either t or tail_share, got t={t} and tail_share={tail_share}")
        self.t, self.tail_share = t, tail_share

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords."""
        return {"t": self.t, "tail_share": self.tail_share}

    def fit(self, counts: np.ndarray | Iterable[int]) -> Self:
        """Set the probabilities from (n,) counts."""
        given = np.asarray(counts if isinstance(counts, np.ndarray) else list(counts))
        if given.ndim != 1 or not len(given):
            raise InputError(f"counts: expected one count for each entry, got shape {given.shape}")
        if given.dtype.kind not in "iu":
            raise InputError(f"counts: expected whole numbers, got {given.dtype}")
        if given.dtype.kind == "i" and given.min() < 0:
            raise InputError(f"counts[{int(given.argmin())}]: expected at least 0, got {given.min()}")
        self.counts_ = given.astype(np.uint64)
        if self.tail_share is not None:
            self.t_ = max(threshold_for_share(self.counts_, share=self.tail_share), 1)
        elif self.t is not None:
            self.t_ = self.t
        count = self.counts_.astype(np.float64)
        self.entry_prob_ = np.ones_like(count) if math.isinf(self.t_) else self.t_ / np.maximum(count, self.t_)
        return self

    def pair_prob(self, indptr: Int[np.ndarray, " n+1"], ids: Int[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
        """Probability to keep each caption, float64; 0 for a caption without a match."""
        self._check_fitted()
        _check_rows(indptr, ids, n=len(self.entry_prob_))
        kept = np.zeros(len(indptr) - 1)
        matched = np.flatnonzero(np.diff(indptr))
        if len(matched):
            loses = 1.0 - self.entry_prob_[ids].astype(np.float64)
            kept[matched] = 1.0 - np.multiply.reduceat(loses, np.asarray(indptr)[matched])
        return kept

    def sample(
        self, indptr: Int[np.ndarray, " n+1"], ids: Int[np.ndarray, " m"], *, random_state: RandomState
    ) -> Int[np.ndarray, " k"]:
        """Positions of the kept captions, ascending, each once.

        A ``random.Random`` draws as the paper's ``balancing.py`` does: one ``random()`` for each entry of a caption,
        in ascending order, until one wins. A ``numpy.random.RandomState`` (or an int, its seed) or ``Generator``
        draws as ``balance_sampling.py``: one uniform for each (caption, entry), in order. The law is the same. For
        draws that do not depend on the order of the pool use ``MetaClipCurator``.
        """
        self._check_fitted()
        _check_rows(indptr, ids, n=len(self.entry_prob_))
        if isinstance(random_state, random.Random):
            return self._sample_one_by_one(indptr, ids, random_state)
        generator = np.random.RandomState(random_state) if isinstance(random_state, int) else random_state
        if math.isinf(self.t_):
            return np.flatnonzero(np.diff(indptr))
        wins = generator.uniform(size=len(ids)) < self.entry_prob_[ids]
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        return np.unique(rows[wins])

    def _sample_one_by_one(self, indptr: np.ndarray, ids: np.ndarray, generator: random.Random) -> np.ndarray:
        prob = self.entry_prob_[ids].tolist()
        ends = np.asarray(indptr).tolist()
        draw = generator.random
        kept = [
            row
            for row, (start, end) in enumerate(itertools.pairwise(ends))
            if any(draw() < chance for chance in prob[start:end])
        ]
        return np.array(kept, np.int64)


def _check_rows(indptr: np.ndarray, ids: np.ndarray, *, n: int) -> None:
    indptr = np.asarray(indptr)
    if indptr.ndim != 1 or not len(indptr) or indptr[0] != 0 or indptr[-1] != len(ids) or (np.diff(indptr) < 0).any():
        raise InputError(f"indptr: expected row pointers from 0 up to {len(ids)}, the number of ids")
    if len(ids) and (np.min(ids) < 0 or np.max(ids) >= n):
        raise InputError(f"ids: expected 0 to {n - 1}, got {np.min(ids)} to {np.max(ids)}")
