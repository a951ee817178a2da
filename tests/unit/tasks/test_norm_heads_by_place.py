"""Heads of the norms' papers called as their interfaces are written, by place."""

from tether.methods.norm_conflicts import CentroidConflict
from tether.tasks.norms import NormThinker


def test_the_distance_comes_first() -> None:
    assert CentroidConflict("cosine").distance == "cosine"


def test_the_thinker_takes_neighbours_and_weight() -> None:
    thinker = NormThinker("tfidf", 3, 0.5)
    assert (thinker.k, thinker.weight) == (3, 0.5)
