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
from tether.data.curate.engine.step import column_of
from tether.data.curate.metaclip.balance import Balancer, Threshold, entry_counts, tail_share
from tether.data.curate.metaclip.balanced_step import BalancedStep
from tether.data.curate.metaclip.matcher import Backend, SubstringMatcher
from tether.data.curate.metaclip.metadata import read_entries, unreachable

_REPORTED = 20  # most frequent entries named in the report


class MetaClipCurator(BalancedStep):
    """Keeps every caption that holds a rare entry, thins those that hold frequent ones only, drops those with none.

    Counts add across shards, so any split of the pool in any order gives the same probabilities, and the draw is a
    hash of each pair's key.

    Source: arXiv 2309.16671 section 3. The paper draws from one random stream; here each pair is drawn once with the
    probability that its entries give together, which is the same law.
    """

    refusal = "no entry of the metadata stands in the caption"

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
            tail_share: instead of t, the fraction of matches (0 to 1) that shall lie in the tail.
            backend: of the matcher.
        """
        listed = read_entries(Path(entries)) if isinstance(entries, str) else entries
        self.balancer = Balancer(t=t, tail_share=tail_share)
        self.matcher = SubstringMatcher(listed, backend=backend)
        self.digest = texts_digest(self.matcher.entries)
        self._clear(len(self.matcher.entries))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with the entries as their digest."""
        return {
            "entries_sha256": self.digest,
            "entries": len(self.matcher.entries),
            "t": self.balancer.t,
            "tail_share": self.balancer.tail_share,
        }

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Add the matches of one batch with a ``text`` column."""
        indptr, ids = self.matcher.match_many(column_of(rows, "text"))
        self.hits += entry_counts(indptr, ids, n=len(self.hits))
        self.rows[""] += rows.num_rows
        self.unmatched[""] += int((np.diff(indptr) == 0).sum())
        self._fitted = False
        return self

    def _probability(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        return self.balancer.pair_prob(*self.matcher.match_many(column_of(rows, "text")))

    def _fit(self) -> None:
        if not self.hits.any():
            raise InputError(
                f"none of the {self.rows['']} captions holds any of the {len(self.hits)} entries; case and marks are "
                f"compared as they are, and the first entry is {self.matcher.entries[0]!r:.80}"
            )
        self.balancer.fit(self.hits)

    def report(self) -> dict[str, Any]:
        """Rows, matches, the threshold and the most frequent entries."""
        most = np.argsort(-self.hits.astype(np.int64), kind="stable")[:_REPORTED]
        entries = self.matcher.entries
        self._fit()
        return {
            "rows": self.rows[""],
            "unmatched": self.unmatched[""],
            "matches": int(self.hits.sum()),
            "entries_hit": int(np.count_nonzero(self.hits)),
            "entries_never_possible": len(unreachable(entries)),
            "t": self.balancer.t_,
            "tail_share": tail_share(self.hits, t=self.balancer.t_),
            "most_frequent": {entries[index]: int(self.hits[index]) for index in most if self.hits[index]},
        }
