from .distill import TowerDistillation as TowerDistillation
from .objective import ObjectiveTerm as ObjectiveTerm
from .registry import TERMS as TERMS
from .similarity import TeacherSimilarity as TeacherSimilarity
from .term import SeenView as SeenView
from .term import Term as Term
from .term import TermInputs as TermInputs
