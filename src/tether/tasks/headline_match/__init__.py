"""Does an image represent its headline: incongruity, profiles of outlets, and a detector without labels."""

from tether.tasks.headline_match.incongruity import GroupProfile, GroupScores, GroupTest, group_profile, incongruity
from tether.tasks.headline_match.incongruity import pair_incongruity as pair_incongruity
from tether.tasks.headline_match.mismatch import MismatchedPairs, make_mismatched_pairs
from tether.tasks.headline_match.pair_classifier import PairClassifier, PairReport
from tether.tasks.headline_match.pair_network import LowRankBilinear, PairNetwork

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
