"""MetaCLIP curation as one step of a recipe: match, count, balance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.model_digest import texts_digest
from tether.core.ranges import Share, checked
from tether.data.curate.engine.step import Counts, State, column_of
from tether.data.curate.metaclip.balance import Balancer, Threshold, entry_counts, tail_share
from tether.data.curate.metaclip.matcher import Backend, SubstringMatcher
from tether.data.curate.metaclip.metadata import read_entries, unreachable

_REPORTED = 20  # most frequent entries named in the report


class MetaClipCurator:
    """Keeps every caption that holds a rare entry, thins those that hold frequent ones only, drops those with none.

    Counts add across shards, so any split of the pool in any order gives the same probabilities, and the draw is a
    hash of each pair's key.

    Source: arXiv 2309.16671 section 3. The paper draws from one random stream; here each pair is drawn once with the
    probability that its entries give together, which is the same law.
    """

    refusal = "no entry of the metadata stands in the caption"
    columns: tuple[str, ...] = ()
    counts: Counts = "pool"

    @checked
    def __init__(
        self,
        *,
        entries: str | Sequence[str],
        t: Threshold | None = None,
        tail_share: Share | None = None,
        backend: Backend = "auto",
    ) -> None:
        """Read the entries and build the matcher.

        Args:
            entries: the metadata, or the path of a file with one entry a line (or a JSON list).
            t: matches up to which an entry is kept whole, at least 1.
            tail_share: instead of t, the share of matches (0 to 1) that shall lie in the tail.
            backend: of the matcher.
        """
        listed = read_entries(Path(entries)) if isinstance(entries, str) else entries
        self.balancer = Balancer(t=t, tail_share=tail_share)
        self.matcher = SubstringMatcher(listed, backend=backend)
        self.digest = texts_digest(self.matcher.entries)
        self._clear()

    def _clear(self) -> None:
        self.hits = np.zeros(len(self.matcher.entries), np.uint64)
        self.rows = 0
        self.unmatched = 0
        self._fitted = False

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with the entries as their digest."""
        return {
            "entries_sha256": self.digest,
            "entries": len(self.matcher.entries),
            "t": self.balancer.t,
            "tail_share": self.balancer.tail_share,
        }

    def empty(self) -> Self:
        """The same settings, sharing the matcher, without counts."""
        other = object.__new__(type(self))
        other.balancer = Balancer(t=self.balancer.t, tail_share=self.balancer.tail_share)
        other.matcher, other.digest = self.matcher, self.digest
        other._clear()
        return other

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Add the matches of one batch with a ``text`` column."""
        indptr, ids = self.matcher.match_many(column_of(rows, "text"))
        self.hits += entry_counts(indptr, ids, n=len(self.hits))
        self.rows += rows.num_rows
        self.unmatched += int((np.diff(indptr) == 0).sum())
        self._fitted = False
        return self

    def merge(self, other: Self) -> Self:
        """Add the counts of another shard."""
        if other.digest != self.digest:
            raise InputError(f"cannot add counts of entries {other.digest[:12]} to counts of {self.digest[:12]}")
        self.hits += other.hits
        self.rows += other.rows
        self.unmatched += other.unmatched
        self._fitted = False
        return self

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """Probability to keep each row of a batch with a ``text`` column."""
        if not self.rows:
            raise InputError("nothing was counted yet; call partial_fit over the whole pool first")
        return self._balanced().pair_prob(*self.matcher.match_many(column_of(rows, "text")))

    def _balanced(self) -> Balancer:
        if not self._fitted:
            if not self.hits.any():
                raise InputError(
                    f"none of the {self.rows} captions holds any of the {len(self.hits)} entries; case and marks "
                    "are compared as they are"
                )
            self.balancer.fit(self.hits)
            self._fitted = True
        return self.balancer

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Entries' digest, the counts of the entries that were hit, rows and unmatched rows."""
        hit = np.flatnonzero(self.hits)
        return {
            "entries_sha256": self.digest,
            "hit": hit,
            "counts": self.hits[hit],
            "rows": self.rows,
            "unmatched": self.unmatched,
        }

    def load_state_dict(self, state: State) -> None:
        """Take over saved counts."""
        if str(state["entries_sha256"]) != self.digest:
            raise InputError(f"counts of entries {str(state['entries_sha256'])[:12]} do not fit {self.digest[:12]}")
        self._clear()
        self.hits[np.asarray(state["hit"], np.int64)] = state["counts"]
        self.rows, self.unmatched = int(state["rows"]), int(state["unmatched"])

    def report(self) -> dict[str, Any]:
        """Rows, matches, the threshold and the most frequent entries."""
        most = np.argsort(-self.hits.astype(np.int64), kind="stable")[:_REPORTED]
        entries = self.matcher.entries
        found = self._balanced()
        return {
            "rows": self.rows,
            "unmatched": self.unmatched,
            "matches": int(self.hits.sum()),
            "entries_hit": int(np.count_nonzero(self.hits)),
            "entries_never_possible": len(unreachable(entries)),
            "t": found.t_,
            "tail_share": tail_share(self.hits, t=found.t_),
            "most_frequent": {entries[index]: int(self.hits[index]) for index in most if self.hits[index]},
        }
