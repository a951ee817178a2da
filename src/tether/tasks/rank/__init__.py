"""Images ordered by words, without examples or with a few."""

from tether.tasks.rank.by_text import scores_by_text
from tether.tasks.rank.ridge import fit_ridge

__all__ = ["fit_ridge", "scores_by_text"]
