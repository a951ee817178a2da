"""Figures of heads on social norms, with chance beside each, and the report that says who judged."""

from tether.evaluate.norms.choices import ChoiceScores, choice_scores, evaluate_egonormia, kind_table
from tether.evaluate.norms.report import NormReport
from tether.evaluate.norms.scores import (
    ClassFigures,
    NormFigure,
    NormScores,
    category_figures,
    evaluate_groups,
    evaluate_pairs,
    evaluate_turns,
    flip_accuracy,
)

__all__ = [
    "ChoiceScores",
    "ClassFigures",
    "NormFigure",
    "NormReport",
    "NormScores",
    "category_figures",
    "choice_scores",
    "evaluate_egonormia",
    "evaluate_groups",
    "evaluate_pairs",
    "evaluate_turns",
    "flip_accuracy",
    "kind_table",
]
