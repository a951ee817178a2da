from .by_text import scores_by_text as scores_by_text
from .ridge import fit_ridge as fit_ridge
