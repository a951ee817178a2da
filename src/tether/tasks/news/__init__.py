"""Does a picture represent its headline: incongruity, profiles of outlets, and a detector without labels."""

from tether.tasks.news.incongruity import GroupProfile, GroupScores, GroupTest, group_profile, incongruity
from tether.tasks.news.incongruity import pair_incongruity as pair_incongruity
from tether.tasks.news.mismatch import MismatchedPairs, make_mismatched_pairs
from tether.tasks.news.pair_classifier import PairClassifier, PairReport
from tether.tasks.news.pair_network import LowRankBilinear, PairNetwork

__all__ = [
    "GroupProfile",
    "GroupScores",
    "GroupTest",
    "LowRankBilinear",
    "MismatchedPairs",
    "PairClassifier",
    "PairNetwork",
    "PairReport",
    "group_profile",
    "incongruity",
    "make_mismatched_pairs",
    "pair_incongruity",
]
