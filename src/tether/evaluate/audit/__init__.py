"""Likely wrong labels and captions, copies across a split and outliers, each with its reason."""

from tether.evaluate.audit.captions import caption_fit
from tether.evaluate.audit.confident import confident_joint, doubt, likely_wrong, pooled
from tether.evaluate.audit.judges import Neighbours, neighbours, out_of_fold

__all__ = [
    "Neighbours",
    "caption_fit",
    "confident_joint",
    "doubt",
    "likely_wrong",
    "neighbours",
    "out_of_fold",
    "pooled",
]
