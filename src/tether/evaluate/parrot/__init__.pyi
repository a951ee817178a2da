from .clusters import ClusterOverlap as ClusterOverlap
from .clusters import cluster_overlap as cluster_overlap
from .removal import RemovalEffect as RemovalEffect
from .removal import control_boxes as control_boxes
from .removal import text_removal_effect as text_removal_effect
from .spotting import SpottingScore as SpottingScore
from .spotting import StyleScore as StyleScore
from .spotting import spotting_score as spotting_score
