"""Does a model read instead of see: rendered words, text taken away, and clusters of images with text."""

from tether.data.lettering.square import STYLES, render_text
from tether.evaluate.parrot.clusters import ClusterOverlap, cluster_overlap
from tether.evaluate.parrot.removal import RemovalEffect, control_boxes, text_removal_effect
from tether.evaluate.parrot.spotting import SpottingScore, StyleScore, spotting_score

__all__ = [
    "STYLES",
    "ClusterOverlap",
    "RemovalEffect",
    "SpottingScore",
    "StyleScore",
    "cluster_overlap",
    "control_boxes",
    "render_text",
    "spotting_score",
    "text_removal_effect",
]
