"""Of ranked things some of which are alike, those that stay."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


def staying(count: int, *, better: Int[np.ndarray, " m"], worse: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " count"]:
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
