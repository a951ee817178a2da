"""What both MetaCLIP steps share: the matches of each entry are counted over the pool, then balanced."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.data.curate.engine.step import Counts, State, check_counted


class BalancedStep(ABC):
    """Counts add across shards, so any split of the pool in any order gives the same probabilities.

    Attributes:
        digest: of the entries.
        hits: uint64 matches of every entry, lists one after the other.
        rows: pairs seen, by language.
        unmatched: pairs without a match, by language.
        fell_back: pairs whose language has no list, by language.
    """

    columns: tuple[str, ...] = ()
    counts: Counts = "pool"
    digest: str
    balancer: Any

    def _clear(self, entries: int) -> None:
        self.hits = np.zeros(entries, np.uint64)
        self.rows, self.unmatched, self.fell_back = Counter[str](), Counter[str](), Counter[str]()
        self._fitted = False

    def empty(self) -> Self:
        """The same settings, sharing the matchers, without counts."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, "balancer": type(self.balancer)(**self.balancer.settings)}
        other._clear(len(self.hits))
        return other

    def merge(self, other: Self) -> Self:
        """Add the counts of another shard."""
        self._check_digest(other.digest)
        self.hits += other.hits
        for mine, theirs in zip(self._tallies().values(), other._tallies().values(), strict=True):
            mine.update(theirs)
        self._fitted = False
        return self

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """Probability to keep each pair.

        Raises:
            InputError: no caption counted (of the reference language) holds an entry.
        """
        check_counted(self.rows)
        if not self._fitted:
            self._fit()
            self._fitted = True
        return self._probability(rows)

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Digest of the entries, the counts of those that were hit, and rows."""
        hit = np.flatnonzero(self.hits)
        tallies = {name: dict(sorted(tally.items())) for name, tally in self._tallies().items()}
        saved = json.dumps(tallies, ensure_ascii=False)
        return {"entries_sha256": self.digest, "hit": hit, "counts": self.hits[hit], "tallies": saved}

    def load_state_dict(self, state: State) -> None:
        """Take over saved counts."""
        self._check_digest(str(state["entries_sha256"]))
        self._clear(len(self.hits))
        self.hits[np.asarray(state["hit"], np.int64)] = state["counts"]
        for name, tally in json.loads(str(state["tallies"])).items():
            getattr(self, name).update(tally)

    @abstractmethod
    def _fit(self) -> None:
        """Fit the balancer on the counts."""

    @abstractmethod
    def _probability(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """Probability to keep each pair, by the fitted balancer."""

    def _tallies(self) -> dict[str, Counter[str]]:
        return {"rows": self.rows, "unmatched": self.unmatched, "fell_back": self.fell_back}

    def _check_digest(self, digest: str) -> None:
        if digest != self.digest:
            raise InputError(f"counts of entries {digest[:12]} do not fit those of {self.digest[:12]}")
