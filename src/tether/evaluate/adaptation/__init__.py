"""What an adaptation changed: own data before and after, what was forgotten, what it cost; a page and JSON."""

from __future__ import annotations

from tether.evaluate.adaptation.figures import Compared, Interval, class_figures, recall_figure
from tether.evaluate.adaptation.measures import MEASURES, Measure, Pictured
from tether.evaluate.adaptation.report import AdaptReport

__all__ = [
    "MEASURES",
    "AdaptReport",
    "Compared",
    "Interval",
    "Measure",
    "Pictured",
    "class_figures",
    "recall_figure",
]
