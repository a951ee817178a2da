"""Folders of test sets as others publish them: clip_benchmark's tars, SugarCrepe, Winoground, ARO."""

from tether.data.suites.choices import CaptionChoice, ChoiceSet
from tether.data.suites.find import SuiteSet, find_sets
from tether.data.suites.shards import ShardSet

__all__ = ["CaptionChoice", "ChoiceSet", "ShardSet", "SuiteSet", "find_sets"]
