"""Labels of every pixel, which experts give to the images of a source once."""

from tether.tasks.label.experts import ColumnLabels, FileLabels, TransformersExpert
from tether.tasks.label.labeler import LabelledFolder, PseudoLabeler

__all__ = ["ColumnLabels", "FileLabels", "LabelledFolder", "PseudoLabeler", "TransformersExpert"]
