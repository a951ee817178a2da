"""Suites of test sets: clip_benchmark's numbers, of several models on the same images, and which differences hold."""

from tether.evaluate.suites.choose import choose
from tether.evaluate.suites.classify import classify, multilabel
from tether.evaluate.suites.compare import PairedDifference, compare
from tether.evaluate.suites.find_texts import find_texts
from tether.evaluate.suites.measured import SuiteNumber
from tether.evaluate.suites.probe import probe
from tether.evaluate.suites.seen import SeenSet, see

__all__ = [
    "PairedDifference",
    "SeenSet",
    "SuiteNumber",
    "choose",
    "classify",
    "compare",
    "find_texts",
    "multilabel",
    "probe",
    "see",
]
