from .experts import ColumnLabels as ColumnLabels
from .experts import FileLabels as FileLabels
from .experts import TransformersExpert as TransformersExpert
from .labeler import LabelledFolder as LabelledFolder
from .labeler import PseudoLabeler as PseudoLabeler
