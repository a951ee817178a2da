"""Probes of what a zero-shot model does to groups of images: pure functions on embeddings, and their report."""

from tether.evaluate.bias.harm import ClassDesign, HarmRate, HarmRates, class_design_effect, harm_rates
from tether.evaluate.bias.labels import LabelAssociation, LabelAssociations, label_association
from tether.evaluate.bias.report import report, write_report
from tether.evaluate.bias.stress import StressTest, stress_test

__all__ = [
    "ClassDesign",
    "HarmRate",
    "HarmRates",
    "LabelAssociation",
    "LabelAssociations",
    "StressTest",
    "class_design_effect",
    "harm_rates",
    "label_association",
    "report",
    "stress_test",
    "write_report",
]
