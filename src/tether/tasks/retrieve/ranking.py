"""The answer to one query: keys and scores, best first, ties to the row that came first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

How = Literal["exact", "index"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The nearest rows to one query.

    Attributes:
        keys: keys of the rows, best first.
        scores: (k,) float32 cosine similarity in [-1, 1], never rising.
        how: ``exact`` when every row (that passed the filter) was compared, ``index`` when an index proposed them.
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
