"""Can a linear model tell where in its text a token stood?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Inner, checked

_MOST_ITERATIONS = 2000


@dataclass(frozen=True, slots=True)
class PositionProbe:
    """What the probe reached on tokens it was not fitted on.

    Attributes:
        accuracy: fraction of the held-out tokens whose position it named.
        majority: fraction of the held-out tokens at the most frequent position of the others: what guessing gives.
        rows: held-out tokens.
    """

    accuracy: float
    majority: float
    rows: int


@checked
def position_probe(
    x: Float[np.ndarray, "n d"], positions: Int[np.ndarray, " n"], *, held_out: Inner = 0.3, seed: int = 0
) -> PositionProbe:
    """Fit a logistic regression from states to positions and look at other tokens.

    High in the first layer, where the position table has just been added; where it stays high, positions leave traces.
    Source: arXiv 2011.04393, section 5.

    Args:
        x: states of one layer; a few thousand tokens and positions up to a dozen take seconds.
        positions: place of each token in its text.
        held_out: fraction of the tokens that is only looked at.
        seed: of the choice of those.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states, places = np.asarray(x), np.asarray(positions)
    if states.ndim != 2 or places.shape != states.shape[:1] or not np.issubdtype(places.dtype, np.integer):
        raise InputError(
            f"expected states (n, d) and whole positions (n,), got {states.shape}, {places.shape} {places.dtype}"
        )
    if not np.isfinite(states).all():
        raise InputError("the states hold NaN or infinity")
    order = np.random.default_rng(seed).permutation(len(places))
    cut = max(1, round(held_out * len(places)))
    test, train = order[:cut], order[cut:]
    values, counts = np.unique(places[train], return_counts=True)
    if len(values) < 2:
        raise InputError(f"expected at least two positions to tell apart, got {values.tolist()}")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_ITERATIONS))
    probe.fit(states[train], places[train])
    return PositionProbe(
        accuracy=float(probe.score(states[test], places[test])),
        majority=float((places[test] == values[counts.argmax()]).mean()),
        rows=len(test),
    )
