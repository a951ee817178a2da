"""Suites of test sets: clip_benchmark's numbers, of several models on the same images, and which differences hold."""

from tether.evaluate.suites.caption_choice import choose
from tether.evaluate.suites.compare import PairedDifference, compare
from tether.evaluate.suites.linear_probe import probe
from tether.evaluate.suites.number import SuiteNumber
from tether.evaluate.suites.retrieval import retrieval
from tether.evaluate.suites.seen import SeenSet, see
from tether.evaluate.suites.zero_shot import classify, multilabel

__all__ = [
    "PairedDifference",
    "SeenSet",
    "SuiteNumber",
    "choose",
    "classify",
    "compare",
    "multilabel",
    "probe",
    "retrieval",
    "see",
]
